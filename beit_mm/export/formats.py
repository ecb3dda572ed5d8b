"""Formats of exported files: how each is written, and how it is run to compare it with the model."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.export import Dim, ExportedProgram

from beit_mm.errors import UserError
from beit_mm.models.weight_layouts import task_of

from .parts import Outputs, Part

METADATA_FILE = 'metadata.json'  # inside a .pt2 file
MAX_ONNX_BYTES = 2**31 - 1  # of a protocol buffer
Run = Callable[[Tensor], Outputs]


class Graph(NamedTuple):
    """The number of images that a graph takes, None for any, and the operator set of an ONNX file."""

    batch: int | None
    opset: int


def write_onnx(part: Part, images: Tensor, path: Path, metadata: dict[str, str], graph: Graph) -> None:
    """One file, with the meta data in `metadata_props`. Its input is `images`, its outputs are the part's."""
    import onnx

    traced = _trace(part, images, graph)
    num_bytes = sum(tensor.nbytes for tensor in traced.state_dict.values())
    if num_bytes > MAX_ONNX_BYTES:
        raise UserError(f'an ONNX file must be under 2 GiB, got {num_bytes / 2**30:.1f} GiB: export to .pt2 instead')
    names = list(part.output_names)
    proto = torch.onnx.export(
        traced, (), dynamo=True, opset_version=graph.opset, output_names=names, verbose=False
    ).model_proto
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


def write_pt2(part: Part, images: Tensor, path: Path, metadata: dict[str, str], graph: Graph) -> None:
    """A program of torch.export, with the meta data in its extra file METADATA_FILE."""
    torch.export.save(_trace(part, images, graph), path, extra_files={METADATA_FILE: json.dumps(metadata)})


def run_pt2(part: Part, path: Path) -> Run:
    return torch.export.load(path).module()


def write_safetensors(part: Part, images: Tensor, path: Path, metadata: dict[str, str], graph: Graph) -> None:
    """Weights in our layout, with tables and position embeddings at the grid of the size."""
    weights = {part.prefix + name: tensor.contiguous() for name, tensor in part.module.state_dict().items()}
    save_file(weights, path, metadata=dict(format='pt', layout='beit_mm', kind=task_of(weights), **metadata))


def run_safetensors(part: Part, path: Path) -> Run:
    """Load a file into a copy of the part."""
    loaded = copy.deepcopy(part)
    loaded.module.load_state_dict({name.removeprefix(part.prefix): tensor for name, tensor in load_file(path).items()})
    return loaded


# How a file is written and run, by suffix.
FORMATS = {
    '.onnx': (write_onnx, run_onnx),
    '.pt2': (write_pt2, run_pt2),
    '.safetensors': (write_safetensors, run_safetensors),
}


def _trace(part: Part, images: Tensor, graph: Graph) -> ExportedProgram:
    """A part as a program of torch.export."""
    if part.name == 'segmentor':
        part.module.auxiliary_head = None  # for training only
    shapes = dict(images={0: Dim('batch')}) if graph.batch is None else None
    return torch.export.export(part, (images,), dynamic_shapes=shapes, strict=False)
