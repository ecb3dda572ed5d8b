"""Models as files for other programs: ONNX, torch.export and safetensors, each compared with the model it came from."""

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmpretrain.models import ImageClassifier
from mmseg.models.segmentors import EncoderDecoder
from safetensors.torch import load_file, save_file
from torch import nn, Tensor
from torch.export import Dim, ExportedProgram

from beit_mm.checkpoint.reading import sha256_of
from beit_mm.config.parts import innermost_dataset
from beit_mm.datasets.images import input_format
from beit_mm.errors import UserError
from beit_mm.files import atomic_write
from beit_mm.hiding import hide_secrets
from beit_mm.models.backbones.beit import BEiT
from beit_mm.models.backbones.layers import patch_grid
from beit_mm.models.classifiers.linear_probe import LinearProbeHead
from beit_mm.models.inspection import unwrap
from beit_mm.models.layout import task_of
from beit_mm.version import __version__

Outputs = Tensor | tuple[Tensor, ...]
Run = Callable[[Tensor], Outputs]
PARTS = dict(classifier=ImageClassifier, segmentor=EncoderDecoder, trunk=nn.Module)
ONNX_PACKAGES = ('onnx', 'onnxruntime', 'onnxscript')
OPSETS = range(18, 24)  # that torch's exporter writes; runtimes of all ages take the first
LIMIT = 1e-4  # of the largest magnitude of an output: float32, summed in another order
TRACED_BATCH = 2  # one image would be taken for a constant
CHECKED_BATCHES = 1, 3  # not the traced number


class Check(NamedTuple):
    """The output of a batch of random images that differs most from the model's: by how much, and its magnitude."""

    batch: int
    difference: float
    magnitude: float


class Report(NamedTuple):
    """What was written: the part, shapes by name (batch 'N' for any number), the meta data, and the comparison."""

    path: Path
    part: str
    inputs: dict[str, tuple]
    outputs: dict[str, tuple]
    metadata: dict[str, str]
    checks: list[Check]

    def lines(self) -> Iterator[str]:
        """The report in words."""
        inputs, outputs = (
            ', '.join(f'{name} ({", ".join(map(str, shape))})' for name, shape in side.items())
            for side in (self.inputs, self.outputs)
        )
        yield f'{self.path}: {self.part}, {inputs} -> {outputs}, {self.path.stat().st_size / 1e6:.1f} MB'
        for batch, difference, magnitude in self.checks:
            most = f'at most {difference:.1e}, for outputs up to {magnitude:.1e}'
            yield f'batch of {batch}: differs from the model by {most}'


class Part(nn.Module):
    """A part of a model for export, on the CPU, float32, in evaluation mode. The model stays as it is.

    Args:
        model: a BEiT, or a model with one as `backbone`.
        name: one of PARTS; None for what the model is, the trunk of one that is neither classifier nor segmentor.

    Attributes:
        output_names: of what `forward` returns.
        prefix: of the names of the weights in our layout, before the module's own names.
    """

    def __init__(self, model: nn.Module, name: str | None = None):
        super().__init__()
        trunk = model if isinstance(model, BEiT) else getattr(model, 'backbone', None)
        if not isinstance(trunk, BEiT):
            raise UserError(f'a model must be or have a BEiT trunk, got {type(model).__name__}')
        choices = [part for part, cls in PARTS.items() if isinstance(model, cls)]
        if name not in (None, *choices):
            raise UserError(f'the part of {type(model).__name__} must be {" or ".join(choices)}, got {name!r}')
        self.name = name or choices[0]
        self.module = copy.deepcopy(trunk if self.name == 'trunk' else model).cpu().float()
        self.eval().requires_grad_(False)
        self.output_names, self.prefix = ['logits'], ''
        if self.name == 'trunk':
            several = [f'features_{index}' for index in range(len(trunk.out_indices))]
            self.output_names, self.prefix = several if len(several) > 1 else ['features'], 'backbone.'

    @property
    def trunk(self) -> BEiT:
        # Not a second submodule, as exported programs would then hold its weights twice.
        return self.module if self.name == 'trunk' else self.module.backbone

    def forward(self, images: Tensor) -> Outputs:
        """From normalized images (N, 3, H, W), for a segmentor one window each, to logits or a trunk's features."""
        if self.name == 'segmentor':
            size = tuple(images.shape[2:])
            return self.module.encode_decode(images, [dict(img_shape=size, pad_shape=size)])
        outputs = self.module(images)
        if self.name == 'trunk':
            return outputs[0] if len(outputs) == 1 else outputs
        head = self.module.head
        return outputs[head.predict_index] if isinstance(head, LinearProbeHead) else outputs


def export(
    model: nn.Module,
    path: str,
    part: str | None = None,
    size: Sequence[int] | None = None,
    batch: int | None = None,
    opset: int | None = None,
    weights: str | None = None,
) -> Report:
    """Export a classifier, trunk or segmentor, and compare the outputs of the file with the model's.

    The input is images as the model takes them: float32 (N, 3, H, W), normalized by the mean and std of the meta data.
    The output is `logits`, (N, num_classes) or (N, num_classes, H, W), or a trunk's `features`. The file gets its name
    only after ONNX Runtime or torch has opened it and computed the same for random images. The model stays as it is.

    Args:
        model: from load_model, or any model with a BEiT as `backbone`, or a BEiT.
        path: the file to write, with a suffix of FORMATS. Nothing is overwritten.
        part: see `Part`.
        size: height and width of the images in pixels; None for the trunk's own.
        batch: number of images that a graph takes; None for any number.
        opset: operator set of an ONNX file, 18 to 23; None for 18.
        weights: the file that the model's weights come from, for the meta data.

    Raises:
        UserError: If the suffix, part, size, batch or opset does not fit, or if a package for ONNX is not installed.
        ValueError: If the outputs differ from the model's.
        FileExistsError: If the path exists.
    """
    model, path = unwrap(model), Path(path)
    _check_options(path, batch, opset)
    write, run = FORMATS[path.suffix]
    reference, fitted = Part(model, part), Part(model, part)
    patch_size = fitted.trunk.patch_embed.patch_size
    size = tuple(size or (side * patch_size for side in fitted.trunk.grid))
    fitted.trunk.set_grid(patch_grid(size, patch_size))  # so that a graph holds the tables of its own grid
    channels = fitted.trunk.patch_embed.proj.in_channels
    with torch.no_grad():
        images = _random_images(batch or TRACED_BATCH, channels, *size)
        outputs = _as_tuple(fitted(images))
        metadata = _describe(model, fitted, size, outputs[0].shape[1], weights)
        with atomic_write(path) as temporary:
            write(fitted, images, temporary, metadata, batch, opset or OPSETS[0])
            written = run(fitted, temporary)
            checks = [
                _compare(written, reference, _random_images(count, channels, *size))
                for count in ((batch,) if batch else CHECKED_BATCHES)
            ]
    first = 'N' if batch is None else batch
    shapes = {name: (first, *output.shape[1:]) for name, output in zip(fitted.output_names, outputs)}
    return Report(path, fitted.name, dict(images=(first, channels, *size)), shapes, metadata, checks)


def _check_options(path: Path, batch: int | None, opset: int | None) -> None:
    if path.suffix not in FORMATS:
        raise UserError(f'an exported file must end in {", ".join(FORMATS)}, got {path}')
    if path.exists():
        raise FileExistsError(f'{path} exists and is not overwritten')
    if batch is not None and (batch < 1 or path.suffix == '.safetensors'):
        raise UserError(f'a batch must be a positive number, for a graph (.onnx, .pt2), got {batch} for {path}')
    if opset is not None and (opset not in OPSETS or path.suffix != '.onnx'):
        raise UserError(f'an opset must be {OPSETS[0]} to {OPSETS[-1]}, for an .onnx file, got {opset} for {path}')
    if path.suffix == '.onnx' and not all(map(find_spec, ONNX_PACKAGES)):
        raise UserError('exporting to ONNX needs pip install "beit_mm[export]"')


def _random_images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(shape[0]))


def _as_tuple(outputs: Outputs) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def _compare(run: Run, reference: Part, images: Tensor) -> Check:
    """The output of a file that differs most from the model's; ValueError if one does beyond the limit or is NaN."""
    checks = []
    for name, actual, expected in zip(reference.output_names, _as_tuple(run(images)), _as_tuple(reference(images))):
        assert actual.shape == expected.shape, (name, actual.shape, expected.shape)
        check = Check(len(images), float((actual - expected).abs().max()), float(expected.abs().max()))
        if not check.difference <= (limit := LIMIT * check.magnitude):
            what = f"{name} of the exported file must be within {limit:.1e} of the model's for {len(images)} images"
            raise ValueError(f'{what}, got a difference of {check.difference:.1e}')
        checks.append(check)
    return max(checks, key=lambda check: check.difference / (check.magnitude or 1.0))


def _describe(model: nn.Module, part: Part, size: tuple[int, int], num_outputs: int, weights: str | None) -> dict:
    """Meta data of a part: what is known of its input, its outputs and its data; all but texts as JSON."""
    trunk, cfg = part.trunk, getattr(model, 'cfg', None) or {}
    meta: dict[str, Any] = dict(
        beit_mm_version=__version__,
        torch_version=torch.__version__,
        part=part.name,
        image_size=size,
        patch_size=trunk.patch_embed.patch_size,
        grid=trunk.grid,
        embed_dim=trunk.embed_dim,
        depth=len(trunk.blocks),
        num_heads=trunk.blocks[0].attn.num_heads,
        outputs=part.output_names,
        test_pipeline=(innermost_dataset(cfg.get('test_dataloader')) or {}).get('pipeline'),
    )
    if getattr(model, 'data_preprocessor', None) is not None:
        wanted = input_format(model)
        # By way of NumPy float32 has no more digits than it knows: 123.675, not 123.67500305175781.
        mean, std = ([float(str(np.float32(value))) for value in values] for values in (wanted.mean, wanted.std))
        meta.update(channel_order=wanted.channel_order, mean=mean, std=std)
    if part.name == 'trunk':
        meta.update(out_type=trunk.out_type, out_indices=trunk.out_indices)
    else:
        meta.update(num_classes=num_outputs)
        classes = (getattr(model, 'dataset_meta', None) or {}).get('classes') or ()
        if len(classes) == num_outputs:  # otherwise they belong to the config's data, not to this head
            meta.update(classes=classes)
    if part.name == 'segmentor':
        meta.update(test_cfg=(cfg.get('model') or {}).get('test_cfg'))  # how windows cover an image
    if weights is not None and Path(weights).is_file():
        meta.update(weights=Path(weights).name, weights_sha256=sha256_of(Path(weights)))
    return {
        key: value if isinstance(value, str) else hide_secrets(json.dumps(value, default=str))
        for key, value in meta.items()
        if value is not None
    }


def _trace(part: Part, images: Tensor, batch: int | None) -> ExportedProgram:
    if part.name == 'segmentor':
        part.module.auxiliary_head = None  # for training only
    shapes = dict(images={0: Dim('batch')}) if batch is None else None
    return torch.export.export(part, (images,), dynamic_shapes=shapes, strict=False)


def _write_onnx(part: Part, images: Tensor, path: Path, metadata: dict, batch: int | None, opset: int) -> None:
    import onnx

    traced = _trace(part, images, batch)
    num_bytes = sum(tensor.nbytes for tensor in traced.state_dict.values())
    if num_bytes >= 2**31:  # the limit of a protocol buffer
        raise UserError(f'an ONNX file must be under 2 GiB, got {num_bytes / 2**30:.1f} GiB: export to .pt2 instead')
    options = dict(dynamo=True, opset_version=opset, output_names=part.output_names, verbose=False)
    proto = torch.onnx.export(traced, (), **options).model_proto
    for node in proto.graph.node:
        del node.metadata_props[:]  # stack traces with the paths of this machine
    onnx.helper.set_model_props(proto, metadata)
    onnx.save(proto, str(path))


def _run_onnx(part: Part, path: Path) -> Run:
    import onnx
    import onnxruntime

    onnx.checker.check_model(str(path))
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    return lambda images: tuple(map(torch.from_numpy, session.run(None, dict(images=images.numpy()))))


def _write_pt2(part: Part, images: Tensor, path: Path, metadata: dict, batch: int | None, opset: int) -> None:
    torch.export.save(_trace(part, images, batch), path, extra_files={'metadata.json': json.dumps(metadata)})


def _write_safetensors(part: Part, images: Tensor, path: Path, metadata: dict, batch: int | None, opset: int) -> None:
    """Weights in our layout, with tables and position embeddings at the grid of the size."""
    weights = {part.prefix + name: tensor.contiguous() for name, tensor in part.module.state_dict().items()}
    save_file(weights, path, metadata=dict(format='pt', layout='beit_mm', kind=task_of(weights), **metadata))


def _run_safetensors(part: Part, path: Path) -> Run:
    loaded = copy.deepcopy(part)
    loaded.module.load_state_dict({name.removeprefix(part.prefix): tensor for name, tensor in load_file(path).items()})
    return loaded


# How a file is written and run, by suffix.
FORMATS = {
    '.onnx': (_write_onnx, _run_onnx),
    '.pt2': (_write_pt2, lambda part, path: torch.export.load(path).module()),
    '.safetensors': (_write_safetensors, _run_safetensors),
}
