"""A model to a file that is known to give what the model gives."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn, Tensor

from beit_mm.files import atomic_write
from beit_mm.models.backbones.layers import patch_grid

from .formats import as_tuple, Choices, Format, FORMATS
from .metadata import describe
from .parts import name_part, Part, take_part

ONNX_PACKAGES = ('onnx', 'onnxruntime', 'onnxscript')
OPSETS = range(18, 24)  # those that torch's exporter writes; runtimes of all ages take the first
LIMIT = 1e-4  # of the largest magnitude of an output: float32, summed in another order
TRACED_BATCH = 2  # one image would be taken for a constant
CHECKED_BATCHES = (1, 3)  # others than the traced one


class Check(NamedTuple):
    """Of a batch of random images: the largest difference of any output to the model's, beside the largest magnitude
    of that output.
    """

    batch: int
    difference: float
    magnitude: float


class Report(NamedTuple):
    """What was written: the part, shapes by name (batch 'N' where any will do), the meta data, and the comparison."""

    path: Path
    part: str
    inputs: dict[str, tuple]
    outputs: dict[str, tuple]
    metadata: dict[str, str]
    checks: list[Check]

    def lines(self) -> list[str]:
        """The report in words."""
        inputs, outputs = (
            ', '.join(f'{name} ({", ".join(map(str, shape))})' for name, shape in shapes.items())
            for shapes in (self.inputs, self.outputs)
        )
        size = self.path.stat().st_size / 1e6
        return [f'{self.path}: {self.part}, {inputs} -> {outputs}, {size:.1f} MB'] + [
            f'batch of {check.batch}: differs from the model by {check.difference:.1e} at most, beside outputs up to '
            f'{check.magnitude:.1e}'
            for check in self.checks
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
    """Export a classifier, trunk or segmentor, and compare what the file gives with what the model gives.

    Images go in as the model wants them: float32 (N, 3, H, W), normalised by the mean and std that the meta data give.
    Out come `logits`, (N, num_classes) or (N, num_classes, H, W), or a trunk's `features`. The file gets its name only
    after it was opened again, by ONNX Runtime or torch, and gave the same on random images.

    Args:
        model: what load_model gives, or any model with a BEiT as `backbone`, or a BEiT; stays as it is.
        path: the file to write, its suffix one of FORMATS; nothing is overwritten.
        part: one of PARTS; None for what the model is, the trunk of one that is neither classifier nor segmentor.
        size: height and width of the images in pixels, which the file is for; None for the trunk's own.
        batch: number of images that a graph takes; None for any number.
        opset: operator set of an ONNX file, 18 to 23; None for 18.
        weights: the file that the model's weights came from, for the meta data.

    Returns:
        What was written, and how far it is from the model.

    Raises:
        ValueError: If the suffix, part, size, batch or opset cannot be, or if the file does not give what the model
            gives.
        FileExistsError: If the path exists.
        ImportError: If a package that ONNX needs is not installed.
    """
    path = Path(path)
    form, choices = _read_choices(path, batch, opset)
    name = name_part(model, part)
    reference, fitted = take_part(model, name), take_part(model, name)
    patch_size = fitted.trunk.patch_embed.patch_size
    size = tuple(size or (side * patch_size for side in fitted.trunk.grid))
    fitted.trunk.set_grid(patch_grid(size, patch_size))
    with torch.no_grad():
        outputs = as_tuple(fitted(_random_images(batch or TRACED_BATCH, size)))
        metadata = describe(model, name, fitted, size, outputs[0].shape[1], weights)
        with atomic_write(path) as temporary:
            form.write(fitted, _random_images(batch or TRACED_BATCH, size), temporary, metadata, choices)
            checks = _compare(form, fitted, reference, temporary, size, (batch,) if batch else CHECKED_BATCHES)
    first = 'N' if batch is None else batch
    return Report(
        path,
        name,
        dict(images=(first, 3, *size)),
        metadata=metadata,
        checks=checks,
        outputs={key: (first, *output.shape[1:]) for key, output in zip(fitted.output_names, outputs)},
    )


def _read_choices(path: Path, batch: int | None, opset: int | None) -> tuple[Format, Choices]:
    if path.suffix not in FORMATS:
        raise ValueError(f'a model is exported to a file that ends in {", ".join(FORMATS)}, got {path}')
    if path.exists():
        raise FileExistsError(f'{path} exists and is not overwritten')
    is_onnx, form = path.suffix == '.onnx', FORMATS[path.suffix]
    if batch is not None and (batch < 1 or not form.is_graph):
        raise ValueError(
            f'a batch must be a positive number of images that a graph takes (.onnx, .pt2), got {batch} for {path}'
        )
    if opset is not None and (opset not in OPSETS or not is_onnx):
        raise ValueError(
            f'an opset must be one of {OPSETS[0]} to {OPSETS[-1]}, for an .onnx file, got {opset} for {path}'
        )
    if is_onnx and not all(map(find_spec, ONNX_PACKAGES)):
        raise ImportError('exporting to ONNX needs pip install "beit_mm[export]"')
    return form, Choices(batch, (opset or OPSETS[0]) if is_onnx else None)


def _random_images(batch: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(seed))


def _compare(
    form: Format, fitted: Part, reference: Part, path: Path, size: tuple[int, int], batches: Sequence[int]
) -> list[Check]:
    """Differences of a file's outputs to the model's; ValueError if one is beyond the limit, or not a number."""
    run = form.run(fitted, path)
    checks = []
    for batch in batches:
        images = _random_images(batch, size, seed=batch)
        found = []
        for name, given, wanted in zip(reference.output_names, run(images), as_tuple(reference(images))):
            if given.shape != wanted.shape:
                raise ValueError(
                    f'{name} of the exported file must be {tuple(wanted.shape)} for {batch} images, got '
                    f'{tuple(given.shape)}'
                )
            check = Check(batch, float((given - wanted).abs().max()), float(wanted.abs().max()))
            if not check.difference <= LIMIT * check.magnitude:
                raise ValueError(
                    f'{name} of the exported file must be within {LIMIT * check.magnitude:.1e} of the '
                    f"model's for {batch} images, got a difference of {check.difference:.1e}"
                )
            found.append(check)
        checks.append(max(found, key=lambda check: check.difference / (check.magnitude or 1.0)))
    return checks
