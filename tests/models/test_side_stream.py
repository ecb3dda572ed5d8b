"""A tokenizer on its own stream: what is launched and waited for, in which order, with a stand-in for the GPU's."""

import copy
from contextlib import contextmanager

import pytest
import torch

from beit_mm.models import BEiT, DiscreteVAE, MaskedImageModel, VisualTokens
from beit_mm.models.selfsup import side_stream

calls = []


class OnDevice(torch.Tensor):
    """A tensor that says it is on a GPU and tells what is done to it."""

    is_cuda = True

    def record_stream(self, stream):
        calls.append(f'memory of {"tokens" if self.dtype == torch.int64 else "views"} kept for {stream.name}')


class Stream:
    def __init__(self, name):
        self.name = name

    def wait_stream(self, other):
        calls.append(f'{self.name} waits for {other.name}')


class Tokenizer(torch.nn.Module):
    vocab_size = 16

    def encode(self, views):
        calls.append('encode')
        return torch.full((2, 4, 4), 3).as_subclass(OnDevice)


@pytest.fixture
def streams(monkeypatch):
    calls.clear()
    side_stream._stream.cache_clear()
    current = [Stream('main')]

    @contextmanager
    def use(stream):
        current.append(stream)
        calls.append(f'{stream.name} begins')
        yield
        calls.append(f'{current.pop().name} ends')

    monkeypatch.setattr(torch.cuda, 'Stream', lambda device: Stream('side'))
    monkeypatch.setattr(torch.cuda, 'current_stream', lambda device: current[-1])
    monkeypatch.setattr(torch.cuda, 'stream', use)
    yield
    side_stream._stream.cache_clear()


def model(tokenizer, **kwargs):
    torch.manual_seed(0)
    trunk = BEiT(
        img_size=64, embed_dim=32, depth=1, num_heads=4, use_rel_pos_bias=False, use_mask_token=True, out_type='raw'
    )
    model = MaskedImageModel(trunk, VisualTokens(tokenizer, **kwargs))
    model.backbone.register_forward_pre_hook(lambda module, args: calls.append('trunk'))
    model.lm_head.register_forward_hook(lambda module, args, output: calls.append('head'))
    return model


def batch():
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    mask[:, 1] = True
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 64, 64, generator=generator), torch.rand(2, 3, 32, 32, generator=generator), mask


@pytest.mark.parametrize('mode', ['loss', 'predict'])
def test_the_tokenizer_starts_before_the_trunk_and_is_waited_for_after_it(mode, streams):
    net, (images, views, mask) = model(Tokenizer(), own_stream=True), batch()
    for _ in range(2):  # the first batch is checked
        calls.clear()
        net(images, views.as_subclass(OnDevice), mask, mode=mode)
        assert calls == [
            'side waits for main',
            'side begins',
            'encode',
            'side ends',
            'memory of views kept for side',
            'trunk',
            'head',
            'main waits for side',
            'memory of tokens kept for main',
        ]


def test_the_first_batch_is_checked_on_the_tokenizers_stream(streams, monkeypatch):
    net, (images, views, mask) = model(Tokenizer(), own_stream=True), batch()
    check = net.target._check
    monkeypatch.setattr(net.target, '_check', lambda tokens: calls.append('check') or check(tokens))
    net(images, views.as_subclass(OnDevice), mask, mode='loss')
    assert calls[1:5] == ['side begins', 'encode', 'check', 'side ends']


def test_without_a_stream_of_its_own_nothing_is_waited_for(streams):
    images, views, mask = batch()
    model(Tokenizer())(images, views.as_subclass(OnDevice), mask, mode='loss')
    assert calls == ['encode', 'trunk', 'head']


def test_elsewhere_than_on_a_gpu_the_stream_changes_nothing(streams):
    tokenizer = DiscreteVAE(vocab_size=16, n_hid=8, n_init=8, blocks_per_group=1)
    losses = [model(tokenizer, own_stream=own_stream)(*batch(), mode='loss')['loss'] for own_stream in (False, True)]
    assert calls == ['trunk', 'head'] * 2
    assert torch.equal(*losses) and losses[0] > 0


def test_a_model_with_a_stream_can_be_copied(streams):
    net, (images, views, mask) = model(Tokenizer(), own_stream=True), batch()
    net(images, views.as_subclass(OnDevice), mask, mode='loss')
    assert copy.deepcopy(net).target.own_stream
