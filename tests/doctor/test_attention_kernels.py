"""Attention kernels against float64: planted faults are named, and healthy ones raise no alarm."""

import pytest
import torch

from beit_mm.doctor import attention
from beit_mm.doctor.attention import draw_case, exact, examine, LENGTHS, Verdict

FP32, BF16, FP16 = attention.DTYPES


def healthy(q, k, v, bias):
    """Computes in float32 and rounds the result, as kernels do."""
    return exact(*(x.float() for x in (q, k, v, bias))).to(q.dtype)


class Scaled(torch.autograd.Function):
    """Its gradient is wrong by a factor."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return ctx.factor * gradient, None


def wrong_gradient(position: int, factor: float):
    def attend(*tensors):
        tensors = list(tensors)
        tensors[position] = Scaled.apply(tensors[position], factor)
        return healthy(*tensors)

    return attend


def at_one_length(tokens: int, fault):
    return lambda q, *others: (fault if q.shape[2] == tokens else healthy)(q, *others)


def with_one_number(value: float):
    def attend(*tensors):
        output = healthy(*tensors)
        changed = output.clone()
        changed[0, 0, 7, 3] += value
        return changed

    return attend


def without_bias(q, k, v, bias):
    return healthy(q, k, v, 0 * bias)


def reading_bias(change):
    return lambda q, k, v, bias: healthy(q, k, v, change(bias))


def fails(*tensors):
    raise RuntimeError('CUDA error: misaligned address\nand more')


def nan_where_logits_are_low(q, k, v, bias):
    """As cuDNN's backward pass on H100 (pytorch issue 196678)."""
    output = healthy(q, k, v, bias)
    factor = float('nan') if q.shape[2] % 128 == 64 and float(bias.detach().min()) < -88.7 else 1.0
    return healthy(Scaled.apply(q, factor), k, v, bias) if factor != 1.0 else output


class Drifting:
    """The output of each call differs a little."""

    calls = 0

    def __call__(self, *tensors):
        self.calls += 1
        return healthy(*tensors) * (1 + 1e-6 * self.calls)


FAULTS = {
    'no bias': (without_bias, FP32, 197, 'the output is off by', 'as if there were no bias'),
    'no bias in bfloat16': (without_bias, BF16, 197, 'the output is off by', 'as if there were no bias'),
    'bias in bfloat16': (reading_bias(lambda x: x.bfloat16().float()), FP32, 197, 'the output is off', 'were bfloat16'),
    'bias in float16': (reading_bias(lambda x: x.half().float()), FP32, 197, 'the output is off', 'bias were float16'),
    'bias read as another dtype': (
        reading_bias(lambda x: x.contiguous().view(FP16).to(BF16)), BF16, 64, 'the output is off', ''),
    'bias of the first head': (
        lambda q, k, v, bias: healthy(q, k, v, bias[:, :1].roll(1, 2)), FP32, 64, 'the output is off by', ''),
    'products in tensor float 32': (
        lambda q, k, v, bias: healthy(q.half().float(), k.half().float(), v, bias), FP32, 197, 'the output is off', ''),
    'gradient of q': (wrong_gradient(0, 1.05), FP32, 197, 'the gradient of the queries is off by 5 %', ''),
    'gradient of k': (wrong_gradient(1, 0.5), BF16, 197, 'the gradient of the keys is off by 50 %', ''),
    'gradient of v': (wrong_gradient(2, -1.0), FP16, 197, 'the gradient of the values is off by 2e+02 %', ''),
    'gradient of the bias': (wrong_gradient(3, 0.0), FP32, 197, 'the gradient of the bias is off by 1e+02 %', ''),
    'no gradient of the bias': (
        lambda q, k, v, bias: healthy(q, k, v, bias.detach()), FP32, 64, 'the gradient of the bias is missing', ''),
    'one number': (with_one_number(2.5e-5), FP32, 197, 'in single numbers', ''),
    'one number in bfloat16': (with_one_number(0.1), BF16, 197, 'in single numbers', ''),
    'NaN at one length': (
        at_one_length(577, lambda q, *others: healthy(q, *others) * float('nan')), BF16, 577, 'infinite or NaN', ''),
    'wrong at one length': (at_one_length(576, without_bias), BF16, 576, 'the output is off by', 'no bias'),
    'NaN gradients of low logits': (
        nan_where_logits_are_low, BF16, 576, 'the gradient of the queries has', 'infinite or NaN'),
    'another dtype': (lambda *x: healthy(*x).float(), BF16, 64, 'in the dtype of the queries, got', 'float32'),
    'another shape': (lambda *x: healthy(*x)[:, :, :, :32], FP32, 64, 'fails with RuntimeError: Mismatch in shape', ''),
    'failure': (fails, FP32, 64, 'fails with RuntimeError: CUDA error: misaligned address', ''),
    'not deterministic': (Drifting(), FP32, 64, 'two calls with the same inputs differs', ''),
}  # yapf: disable


@pytest.mark.parametrize('name', FAULTS)
def test_a_planted_fault_is_named_in_one_sentence(name):
    attend, dtype, tokens, *words = FAULTS[name]
    verdict = examine('efficient', attend, draw_case(tokens, dtype))
    assert verdict.status == 'wrong'
    where = f'efficient attention in {str(dtype)[6:]} at {tokens} tokens: '
    text = str(verdict.problem)
    assert text.startswith(where) and all(word in text for word in words) and '\n' not in text
    assert text.endswith('keep torch from it by torch.backends.cuda.enable_mem_efficient_sdp(False)')


@pytest.mark.parametrize('name', ['NaN at one length', 'wrong at one length', 'NaN gradients of low logits'])
def test_such_a_fault_is_found_at_that_length_only(name):
    attend, dtype, tokens, *_ = FAULTS[name]
    found = [examine('cudnn', attend, draw_case(n, dtype)).status for n in (197, tokens)]
    assert found == ['OK', 'wrong']


def test_a_kernel_that_learns_no_bias_is_tried_with_a_fixed_one():
    def attend(q, k, v, bias):
        if bias.requires_grad:
            raise RuntimeError('No available kernel. Aborting execution.')
        return healthy(q, k, v, bias)

    case = draw_case(64, FP32)
    assert examine('flash', attend, case) == Verdict('flash', 'float32', 64, 'fixed')

    def refuses(*tensors):
        raise RuntimeError('No viable backend for scaled_dot_product_attention was found.')

    assert examine('cudnn', refuses, case).status == 'refused'
    fixed_and_wrong = lambda q, k, v, bias: attend(q, k, v, bias) * 1.1  # noqa: E731
    assert examine('flash', fixed_and_wrong, case).status == 'wrong'


def run_all_kernels(seeds: range, lengths: tuple[int, ...]) -> None:
    kernels = attention.kernels(False, torch.device('cpu'))
    assert {'math', 'flash', 'efficient', 'cudnn', attention.AS_TORCH_CHOOSES} <= set(kernels)
    for seed in seeds:
        for dtype in attention.DTYPES:
            for tokens in lengths:
                case = draw_case(tokens, dtype, seed=seed)
                verdicts = [examine(name, attend, case) for name, attend in (*kernels.items(), ('own', healthy))]
                assert [str(verdict.problem) for verdict in verdicts if verdict.problem] == []
                assert {verdict.status for verdict in verdicts if verdict.kernel in ('math', 'own')} == {'OK'}


def test_healthy_kernels_raise_no_alarm():
    run_all_kernels(range(3), (64, 197))


@pytest.mark.long
def test_healthy_kernels_raise_no_alarm_in_100_runs():
    run_all_kernels(range(100), (64, 197, 577))
    run_all_kernels(range(2), LENGTHS)


def test_errors_of_kernels_that_round_their_weights_are_allowed():
    """As fused kernels do: the attention weights, and in the backward pass their gradients, in half precision."""

    def rounding(q, k, v, bias):
        logits = (q.float() @ k.float().transpose(2, 3)) / 8 + bias.float()
        weights = logits.softmax(3)
        rounded = weights + (weights.to(q.dtype).float() - weights).detach()
        return (rounded @ v.float()).to(q.dtype)

    for dtype in (BF16, FP16):
        for seed in range(3):
            assert examine('own', rounding, draw_case(197, dtype, seed=seed)).status == 'OK'
