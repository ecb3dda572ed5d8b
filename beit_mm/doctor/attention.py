"""Attention with a learned bias: every kernel that torch offers, its output and gradients against float64."""

import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import flex_attention

from beit_mm.checks.problems import Problem
from beit_mm.engine.hooks.machine_hook import KERNELS, only_kernels

Attend = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # queries, keys, values, bias
# Tokens of 7 x 9, 14 x 14, 23 x 25, 24 x 24, 32 x 32 and 40 x 40 patches, and the class token. Reports of torch name
# 64 modulo 128 (NaN gradients), 1 modulo 32 (wrong outputs) and what is no multiple of 8 or of a kernel's tile.
LENGTHS = (64, 197, 576, 577, 1025, 1601)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
BATCH, HEADS, CHANNELS = 2, 2, 64
# The last head's logits are low, as in heads with few large activations: only its numbers' being finite is checked.
SHIFT = -120.0
AS_TORCH_CHOOSES = 'as torch chooses'
TENSORS = ('output', *(f'gradient of the {name}' for name in ('queries', 'keys', 'values', 'bias')))

# Allowed errors in units of the dtype's precision: the root mean square over that of the expected numbers, and the
# largest of a single number over its own size plus that. A kernel that rounds the attention weights to a half precision
# has up to 0.5 and 3; torch's own in float32, with its sums over all tokens, 4 and 120.
ALLOWED = {torch.float32: (30.0, 1000.0), torch.bfloat16: (2.0, 10.0), torch.float16: (2.0, 10.0)}
HOW = ('{}', 'up to {} in single numbers')
REFUSALS = ('No available kernel', 'No viable backend')
MENDS = {name: f'keep torch from it by torch.backends.cuda.{f.__name__}(False)' for name, f in KERNELS.items()}
MENDS[AS_TORCH_CHOOSES] = 'train with the kernels that `beit-mm doctor --config CONFIG --out machine.py` names'


class Case(NamedTuple):
    """Inputs of one length and dtype, and the TENSORS that float64 gives for them.

    `qkv` is (B, N, 3, heads, C), as a linear layer gives it, `bias` (1, heads, N, N rounded up to 8), as the trunk
    gives it, and `gradient`, of the output, (B, heads, N, C).
    """

    qkv: Tensor
    bias: Tensor
    gradient: Tensor
    expected: list[Tensor | None]


class Verdict(NamedTuple):
    """Of one kernel in one case: `status` is 'OK', 'fixed' (it takes a bias without a gradient only), 'refused' or
    'wrong', with a problem.
    """

    kernel: str
    dtype: str
    tokens: int
    status: str
    problem: Problem | None = None


def kernels(has_compiler: bool, device: torch.device) -> dict[str, Attend]:
    """By name: what torch chooses, each of its kernels, and Flex where it can be compiled for training."""

    def only(name: str, *tensors: Tensor) -> Tensor:
        with only_kernels([name]):
            return F.scaled_dot_product_attention(*tensors)

    found: dict[str, Attend] = {AS_TORCH_CHOOSES: F.scaled_dot_product_attention}
    found |= {name: partial(only, name) for name in KERNELS}
    if has_compiler and device.type == 'cuda':  # on a CPU Flex has no backward pass
        found['flex'] = partial(_flex, torch.compile(flex_attention, dynamic=True))
    return found


def _flex(compiled: Callable, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    if q.dtype != torch.bfloat16:  # each dtype compiles anew, and recipes use this one
        raise RuntimeError(REFUSALS[0])
    try:
        return compiled(q, k, v, score_mod=lambda score, b, h, i, j: score + bias[0, h, i, j])
    except Exception as error:  # nothing here uses it, so that it cannot be compiled is no problem
        raise RuntimeError(f'{REFUSALS[0]}: {error}') from error


def exact(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """The definition: softmax(q k^T / sqrt(C) + bias) v."""
    return (q @ k.transpose(2, 3) / math.sqrt(q.shape[3]) + bias).softmax(dim=3) @ v


def draw_case(tokens: int, dtype: torch.dtype, device: torch.device | str = 'cpu', seed: int = 0) -> Case:
    """Random numbers of unit variance, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    qkv = torch.randn(BATCH, tokens, 3, HEADS, CHANNELS, generator=generator)
    bias = torch.randn(1, HEADS, tokens, tokens + -tokens % 8, generator=generator)
    bias[:, -1] += SHIFT
    gradient = torch.randn(BATCH, tokens, HEADS, CHANNELS, generator=generator).transpose(1, 2)
    inputs = [x.to(device, dtype) for x in (qkv, bias, gradient)]
    return Case(*inputs, differentiate(exact, *(x.double() for x in inputs)))


def differentiate(
    attend: Attend, qkv: Tensor, bias: Tensor, gradient: Tensor, is_learned: bool = True
) -> list[Tensor | None]:
    """Output and gradients, see TENSORS; None for what gets no gradient."""
    q, k, v = (x.detach().requires_grad_() for x in qkv.permute(2, 0, 3, 1, 4).unbind())
    bias = bias.detach().requires_grad_(is_learned)
    output = attend(q, k, v, bias[..., : qkv.shape[1]])
    sources = [q, k, v, *([bias] if is_learned else [])]
    return [output.detach(), *torch.autograd.grad(output, sources, gradient, allow_unused=True)]


def examine_all(has_compiler: bool, device: torch.device) -> Iterator[Verdict]:
    found = kernels(has_compiler, device)
    for dtype, tokens in itertools.product(DTYPES, LENGTHS):
        case = draw_case(tokens, dtype, device)
        yield from (examine(name, attend, case) for name, attend in found.items())


def examine(kernel: str, attend: Attend, case: Case) -> Verdict:
    """Compare a kernel with float64. A bias that it refuses to learn is given to it without a gradient."""
    dtype, tokens = _name(case.qkv.dtype), case.qkv.shape[1]
    for status, is_learned in dict(OK=True, fixed=False).items():
        inputs = *case[:3], is_learned
        try:
            fault = find_fault(differentiate(attend, *inputs), case, differentiate(attend, *inputs)[0])
        except Exception as error:
            if str(error).startswith(REFUSALS):
                continue
            fault = f'fails with {type(error).__name__}: {str(error).strip().splitlines()[0]}'
        if fault is None:
            return Verdict(kernel, dtype, tokens, status)
        where = f'{"" if kernel == AS_TORCH_CHOOSES else f"{kernel} "}attention in {dtype} at {tokens} tokens'
        problem = Problem(where, f'{fault}; {MENDS.get(kernel, "do not use it")}')
        return Verdict(kernel, dtype, tokens, 'wrong', problem)
    return Verdict(kernel, dtype, tokens, 'refused')


def find_fault(actual: list[Tensor | None], case: Case, again: Tensor) -> str | None:
    """What is wrong with an output and its gradients; None if nothing is.

    Args:
        again: the output of a second call with the same inputs.
    """
    dtype = case.qkv.dtype
    for name, tensor, expected in zip(TENSORS, actual, case.expected):
        if tensor is None:
            return f'the {name} is missing'
        if tensor.shape != expected.shape or tensor.dtype != dtype:
            found = f'{tuple(tensor.shape)} in {_name(tensor.dtype)}'
            return f'the {name} must be {tuple(expected.shape)} in the dtype of the queries, got {found}'
        if count := int((~tensor.isfinite()).sum()):
            return f'the {name} has {count} infinite or NaN numbers of {tensor.numel()}'
        for error, units, how in zip(_errors(tensor, expected), ALLOWED[dtype], HOW):
            allowed = torch.finfo(dtype).eps * units
            if error > allowed:
                cause = _guess(tensor, case, allowed) if name == 'output' and how == HOW[0] else ''
                what = how.format(f'{100 * error:.2g} %')
                return f'the {name} is off by {what} (allowed {100 * allowed:.2g} %){cause}'
    if not torch.equal(actual[0], again):
        return 'the output of two calls with the same inputs differs, so a resumed run would not be exact'
    return None


def _errors(actual: Tensor, expected: Tensor) -> tuple[float, float]:
    """See ALLOWED; without the last head."""
    actual, expected = actual[:, :-1].double(), expected[:, :-1]
    error, size = (actual - expected).abs(), expected.square().mean().sqrt()
    return float(error.square().mean().sqrt() / size), float((error / (expected.abs() + size)).max())


def _guess(output: Tensor, case: Case, allowed: float) -> str:
    """What a wrong output is right for, as far as it is known."""
    q, k, v = case.qkv.double().permute(2, 0, 3, 1, 4).unbind()
    bias = case.bias[..., : q.shape[2]]
    suspects = {', as if there were no bias': bias.double() * 0}
    suspects |= {f', as if the bias were {_name(dtype)}': bias.to(dtype).double() for dtype in DTYPES[1:]}
    errors = {name: _errors(output, exact(q, k, v, suspect))[0] for name, suspect in suspects.items()}
    name = min(errors, key=errors.__getitem__)
    return name if errors[name] < allowed else ''


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix('torch.')
