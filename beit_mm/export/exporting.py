"""A model to a file whose outputs are known to equal the model's."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn, Tensor

from beit_mm.errors import UserError
from beit_mm.files import atomic_write
from beit_mm.models.backbones.layers import patch_grid

from .formats import FORMATS, Graph, Run
from .parts import as_tuple, describe, Part

ONNX_PACKAGES = ('onnx', 'onnxruntime', 'onnxscript')
OPSETS = range(18, 24)  # that torch's exporter writes; runtimes of all ages take the first
LIMIT = 1e-4  # of the largest magnitude of an output: float32, summed in another order
TRACED_BATCH = 2  # one image would be taken for a constant
CHECKED_BATCHES = (1, 3)  # not the traced number


class Check(NamedTuple):
    """For a batch of random images, the output that differs most from the model's: by how much, and its magnitude."""

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

    def lines(self) -> list[str]:
        """The report in words."""
        shapes = [[f'{name} ({", ".join(map(str, shape))})' for name, shape in self.inputs.items()]]
        shapes.append([f'{name} ({", ".join(map(str, shape))})' for name, shape in self.outputs.items()])
        text = ' -> '.join(map(', '.join, shapes))
        return [f'{self.path}: {self.part}, {text}, {self.path.stat().st_size / 1e6:.1f} MB'] + [
            f'batch of {batch}: differs from the model by at most {difference:.1e}, for outputs up to {magnitude:.1e}'
            for batch, difference, magnitude in self.checks
        ]


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
    only after ONNX Runtime or torch has opened it and computed the same for random images.

    Args:
        model: from load_model, or any model with a BEiT as `backbone`, or a BEiT. It stays as it is.
        path: the file to write, with a suffix of FORMATS. Nothing is overwritten.
        part: one of PARTS; None for what the model is, the trunk of one that is neither classifier nor segmentor.
        size: height and width of the images in pixels; None for the trunk's own.
        batch: number of images that a graph takes; None for any number.
        opset: operator set of an ONNX file, 18 to 23; None for 18.
        weights: the file that the model's weights come from, for the meta data.

    Raises:
        UserError: If the suffix, part, size, batch or opset does not fit, or if a package for ONNX is not installed.
        ValueError: If the outputs differ from the model's.
        FileExistsError: If the path exists.
    """
    path = Path(path)
    _check_options(path, batch, opset)
    write, run = FORMATS[path.suffix]
    reference, fitted = Part(model, part), Part(model, part)
    patch_size = fitted.trunk.patch_embed.patch_size
    size = tuple(size or (side * patch_size for side in fitted.trunk.grid))
    fitted.trunk.set_grid(patch_grid(size, patch_size))  # so that a graph holds the tables of its own grid
    with torch.no_grad():
        images = _random_images(batch or TRACED_BATCH, size)
        outputs = as_tuple(fitted(images))
        metadata = describe(model, fitted, size, outputs[0].shape[1], weights)
        with atomic_write(path) as temporary:
            write(fitted, images, temporary, metadata, Graph(batch, opset or OPSETS[0]))
            checks = _compare(run(fitted, temporary), reference, size, (batch,) if batch else CHECKED_BATCHES)
    first = 'N' if batch is None else batch
    shapes = {name: (first, *output.shape[1:]) for name, output in zip(fitted.output_names, outputs)}
    return Report(path, fitted.name, dict(images=(first, 3, *size)), shapes, metadata, checks)


def _check_options(path: Path, batch: int | None, opset: int | None) -> None:
    if path.suffix not in FORMATS:
        raise UserError(f'an exported file must end in {", ".join(FORMATS)}, got {path}')
    if path.exists():
        raise FileExistsError(f'{path} exists and is not overwritten')
    is_onnx, is_graph = path.suffix == '.onnx', path.suffix != '.safetensors'
    if batch is not None and (batch < 1 or not is_graph):
        raise UserError(f'a batch must be a positive number, for a graph (.onnx, .pt2), got {batch} for {path}')
    if opset is not None and (opset not in OPSETS or not is_onnx):
        raise UserError(f'an opset must be {OPSETS[0]} to {OPSETS[-1]}, for an .onnx file, got {opset} for {path}')
    if is_onnx and not all(map(find_spec, ONNX_PACKAGES)):
        raise UserError('exporting to ONNX needs pip install "beit_mm[export]"')


def _random_images(batch: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(seed))


def _compare(run: Run, reference: Part, size: tuple[int, int], batches: Sequence[int]) -> list[Check]:
    """Compare the outputs of a file with the model's; ValueError if one is beyond the limit or not a number."""
    checks = []
    for batch in batches:
        images = _random_images(batch, size, seed=batch)
        compared = []
        for name, actual, expected in zip(reference.output_names, as_tuple(run(images)), as_tuple(reference(images))):
            assert actual.shape == expected.shape, (name, actual.shape, expected.shape)
            check = Check(batch, float((actual - expected).abs().max()), float(expected.abs().max()))
            if not check.difference <= LIMIT * check.magnitude:
                raise ValueError(
                    f'{name} of the exported file must be within {LIMIT * check.magnitude:.1e} of the '
                    f"model's for {batch} images, got a difference of {check.difference:.1e}"
                )
            compared.append(check)
        checks.append(max(compared, key=lambda check: check.difference / (check.magnitude or 1.0)))
    return checks
