"""Formats of exported files: how each is written, and how it is run to compare it with the model."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.export import Dim, ExportedProgram

from beit_mm.checkpoint import read_checkpoint
from beit_mm.errors import UserError
from beit_mm.models.weight_layouts import task_of

from .parts import Outputs, Part

METADATA_FILE = 'metadata.json'  # inside a .pt2 file
MAX_ONNX_BYTES = 2**31 - 1  # of a protocol buffer
Run = Callable[[Tensor], tuple[Tensor, ...]]


class Choices(NamedTuple):
    """Of a graph: the number of images, None for any, and the operator set, None for formats other than ONNX."""

    batch: int | None
    opset: int | None


def write_onnx(part: Part, images: Tensor, path: Path, metadata: dict[str, str], choices: Choices) -> None:
    """One file, with the meta data in `metadata_props`. Its input is `images`, its outputs are the part's."""
    import onnx

    traced = trace(part, images, choices.batch)
    num_bytes = sum(tensor.nbytes for tensor in traced.state_dict.values())
    if num_bytes > MAX_ONNX_BYTES:
        raise UserError(
            f'an ONNX file must be under 2 GiB, got a model of {num_bytes / 2**30:.1f} GiB; export it to .pt2'
        )
    program = torch.onnx.export(
        traced, (), dynamo=True, opset_version=choices.opset, output_names=list(part.output_names), verbose=False
    )
    proto = program.model_proto
    for node in proto.graph.node:
        del node.metadata_props[:]  # stack traces with the paths of this machine
    onnx.helper.set_model_props(proto, metadata)
    onnx.save(proto, str(path))


def run_onnx(part: Part, path: Path) -> Run:
    """Check a file and open it in ONNX Runtime on the CPU."""
    import onnx
    import onnxruntime

    onnx.checker.check_model(str(path))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    return lambda images: tuple(map(torch.from_numpy, session.run(None, dict(images=images.numpy()))))


def write_pt2(part: Part, images: Tensor, path: Path, metadata: dict[str, str], choices: Choices) -> None:
    """A program of torch.export, with the meta data in its extra file METADATA_FILE."""
    torch.export.save(trace(part, images, choices.batch), path, extra_files={METADATA_FILE: json.dumps(metadata)})


def run_pt2(part: Part, path: Path) -> Run:
    program = torch.export.load(path).module()
    return lambda images: as_tuple(program(images))


def write_safetensors(part: Part, images: Tensor, path: Path, metadata: dict[str, str], choices: Choices) -> None:
    """Weights in our layout, with tables and position embeddings at the grid of the size."""
    weights = part.weights()
    save_file(weights, path, metadata=dict(format='pt', layout='beit_mm', kind=task_of(weights), **metadata))


def run_safetensors(part: Part, path: Path) -> Run:
    """Load a file into a copy of the part."""
    loaded = copy.deepcopy(part)
    loaded.load(read_checkpoint(path))
    return lambda images: as_tuple(loaded(images))


class Format(NamedTuple):
    """How a file of a format is written and run, and whether it is a graph or weights alone."""

    write: Callable[[Part, Tensor, Path, dict[str, str], Choices], None]
    run: Callable[[Part, Path], Run]
    is_graph: bool


FORMATS = {
    '.onnx': Format(write_onnx, run_onnx, True),
    '.pt2': Format(write_pt2, run_pt2, True),
    '.safetensors': Format(write_safetensors, run_safetensors, False),
}


def trace(part: Part, images: Tensor, batch: int | None) -> ExportedProgram:
    """A part as a program of torch.export, for as many images as `images` has or, if batch is None, for any number."""
    if part.name == 'segmentor':
        part.module.auxiliary_head = None  # for training only
    shapes = dict(images={0: Dim('batch')}) if batch is None else None
    return torch.export.export(part, (images,), dynamic_shapes=shapes, strict=False)


def as_tuple(outputs: Outputs) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
