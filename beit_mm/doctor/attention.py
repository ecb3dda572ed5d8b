"""Attention with a learned bias: every kernel that torch offers, its output and gradients against float64."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import sdpa_kernel, SDPBackend

from beit_mm.checks.problems import Problem
from beit_mm.engine.hooks.machine_hook import KERNELS

Attend = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
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
MEAN_ERROR = {torch.float32: 30.0, torch.bfloat16: 2.0, torch.float16: 2.0}
LARGEST_ERROR = {torch.float32: 1000.0, torch.bfloat16: 10.0, torch.float16: 10.0}
REFUSALS = ('No available kernel', 'No viable backend')


@dataclass(frozen=True)
class Case:
    """Inputs of one length and dtype, and the numbers that float64 gives for them.

    `qkv` is (B, N, 3, heads, C), as a linear layer gives it, `bias` (1, heads, N, N rounded up to 8), as the trunk
    gives it, and `gradient`, of the output, (B, heads, N, C). `expected` are the TENSORS in float64.
    """

    tokens: int
    dtype: torch.dtype
    qkv: Tensor
    bias: Tensor
    gradient: Tensor
    expected: list[Tensor]


@dataclass(frozen=True)
class Verdict:
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

    def only(backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)

    found: dict[str, Attend] = {
        AS_TORCH_CHOOSES: lambda q, k, v, bias: F.scaled_dot_product_attention(q, k, v, attn_mask=bias),
        'math': partial(only, SDPBackend.MATH),
        'flash': partial(only, SDPBackend.FLASH_ATTENTION),
        'efficient': partial(only, SDPBackend.EFFICIENT_ATTENTION),
        'cudnn': partial(only, SDPBackend.CUDNN_ATTENTION),
    }
    if has_compiler and device.type == 'cuda':  # on a CPU it has no backward pass
        found['flex'] = _flex()
    return found


def _flex() -> Attend:
    from torch.nn.attention.flex_attention import flex_attention

    compiled = torch.compile(flex_attention, dynamic=True)

    def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        if q.dtype != torch.bfloat16:  # each dtype compiles anew, and recipes use this one
            raise RuntimeError(REFUSALS[0])
        try:
            return compiled(q, k, v, score_mod=lambda score, b, h, i, j: score + bias[0, h, i, j])
        except Exception as error:  # nothing here uses it, so that it cannot be compiled is no problem
            raise RuntimeError(f'{REFUSALS[0]}: {error}') from error

    return attend


def exact(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """The definition: softmax(q k^T / sqrt(C) + bias) v."""
    return (q @ k.transpose(2, 3) / math.sqrt(q.shape[3]) + bias).softmax(dim=3) @ v


def draw_case(tokens: int, dtype: torch.dtype, device: torch.device | str = 'cpu', seed: int = 0) -> Case:
    """Random numbers of unit variance, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    qkv = torch.randn(BATCH, tokens, 3, HEADS, CHANNELS, generator=generator)
    bias = torch.randn(1, HEADS, tokens, tokens + -tokens % 8, generator=generator)
    bias[:, -1] += SHIFT
    gradient = torch.randn(BATCH, tokens, HEADS, CHANNELS, generator=generator)
    qkv, bias, gradient = (x.to(device, dtype) for x in (qkv, bias, gradient))
    gradient = gradient.transpose(1, 2)
    expected = differentiate(exact, qkv.double(), bias.double(), gradient.double())
    return Case(tokens, dtype, qkv, bias, gradient, [tensor for tensor in expected if tensor is not None])


def draw_cases(device: torch.device | str = 'cpu', seed: int = 0) -> Iterator[Case]:
    for dtype in DTYPES:
        for tokens in LENGTHS:
            yield draw_case(tokens, dtype, device, seed)


def differentiate(
    attend: Attend, qkv: Tensor, bias: Tensor, gradient: Tensor, is_learned: bool = True
) -> list[Tensor | None]:
    """Output and gradients, see TENSORS; None for what gets no gradient."""
    q, k, v = (x.detach().requires_grad_() for x in qkv.permute(2, 0, 3, 1, 4).unbind())
    bias = bias.detach().requires_grad_(is_learned)
    output = attend(q, k, v, bias[..., : qkv.shape[1]])
    sources = [q, k, v, *([bias] if is_learned else [])]
    return [output.detach(), *torch.autograd.grad(output, sources, gradient, allow_unused=True)]


def examine(kernel: str, attend: Attend, case: Case) -> Verdict:
    """Compare a kernel with float64. A bias that it refuses to learn is given to it without a gradient."""
    dtype = str(case.dtype).rpartition('.')[2]
    for is_learned in (True, False):
        inputs = case.qkv, case.bias, case.gradient, is_learned
        try:
            actual = differentiate(attend, *inputs)
            again = differentiate(attend, *inputs)[0]
        except Exception as error:
            if str(error).startswith(REFUSALS):
                continue
            sentence = f'fails with {type(error).__name__}: {str(error).strip().splitlines()[0]}'
        else:
            sentence = find_fault(actual, case, again)
            if sentence and len(actual) == len(TENSORS) and 'output is off' in sentence:
                sentence += _diagnose(actual[0], case)
        if sentence is None:
            return Verdict(kernel, dtype, case.tokens, 'OK' if is_learned else 'fixed')
        name = 'attention' if kernel == AS_TORCH_CHOOSES else f'{kernel} attention'
        where = f'{name} in {dtype} at {case.tokens} tokens'
        return Verdict(kernel, dtype, case.tokens, 'wrong', Problem(where, f'{sentence}; {_mend(kernel)}'))
    return Verdict(kernel, dtype, case.tokens, 'refused')


def _mend(kernel: str) -> str:
    if kernel in KERNELS:
        return f'keep torch from it by torch.backends.cuda.{KERNELS[kernel].__name__}(False)'
    if kernel == AS_TORCH_CHOOSES:
        return 'train with the kernels that are right: `beit-mm doctor --config CONFIG --out machine.py` names them'
    return f'do not use {kernel}'


def find_fault(actual: list[Tensor | None], case: Case, again: Tensor | None = None) -> str | None:
    """What is wrong with an output and its gradients; None if nothing is.

    Args:
        again: the output of a second call with the same inputs.
    """
    for name, tensor, expected in zip(TENSORS, actual, case.expected):
        if tensor is None:
            return f'the {name} is missing'
        if tensor.shape != expected.shape or tensor.dtype != case.dtype:
            found = f'{tuple(tensor.shape)} in {str(tensor.dtype).rpartition(".")[2]}'
            return f'the {name} must be {tuple(expected.shape)} in the dtype of the queries, got {found}'
        count = int((~tensor.isfinite()).sum())
        if count:
            return f'the {name} has {count} infinite or NaN numbers of {tensor.numel()}'
        heads = (slice(None), slice(HEADS - 1))  # not the last, with its low logits
        mean, largest = measure_errors(tensor[heads], expected[heads])
        allowed = torch.finfo(case.dtype).eps * MEAN_ERROR[case.dtype]
        if mean > allowed:
            return f'the {name} is off by {_percent(mean)} (allowed {_percent(allowed)})'
        allowed = torch.finfo(case.dtype).eps * LARGEST_ERROR[case.dtype]
        if largest > allowed:
            return f'the {name} is off by up to {_percent(largest)} in single numbers (allowed {_percent(allowed)})'
    if again is not None and not torch.equal(actual[0], again):
        return 'the output of two calls with the same inputs differs, so a resumed run would not be exact'
    return None


def measure_errors(actual: Tensor, expected: Tensor) -> tuple[float, float]:
    """Root mean square of the error over that of the expected numbers; and the largest error of a number over its own
    size plus that.
    """
    error = (actual.double() - expected).abs()
    size = expected.square().mean().sqrt()
    return float(error.square().mean().sqrt() / size), float((error / (expected.abs() + size)).max())


def _percent(share: float) -> str:
    return f'{100 * share:.2g} %'


def _diagnose(output: Tensor, case: Case) -> str:
    """What a wrong output is right for, as far as it is known."""
    q, k, v = case.qkv.double().permute(2, 0, 3, 1, 4).unbind()
    bias = case.bias[..., : case.tokens]
    suspects = {'as if there were no bias': bias.double() * 0}
    for dtype in DTYPES[1:]:
        suspects[f'as if the bias were {str(dtype).rpartition(".")[2]}'] = bias.to(dtype).double()
    heads = (slice(None), slice(HEADS - 1))
    errors = {
        name: measure_errors(output[heads], exact(q, k, v, suspect)[heads])[0] for name, suspect in suspects.items()
    }
    name, error = min(errors.items(), key=lambda item: item[1])
    return f', {name}' if error < torch.finfo(case.dtype).eps * MEAN_ERROR[case.dtype] else ''
