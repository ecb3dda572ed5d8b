"""The model on this device against numbers that the BEiT release printed, and against float64 on the CPU."""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from mmpretrain.models import ImageClassifier
from torch import nn, Tensor

from beit_mm.checks.problems import Problem
from beit_mm.datasets.images import read_image
from beit_mm.engine.optimizers.constructors import LayerDecayOptimWrapperConstructor
from beit_mm.models import BEiT, MaskedImageModel, VisualTokens
from beit_mm.models.tokenizers.discrete_vae import ENCODE_DTYPES

# Weights, images, tokens, losses, gradients and logits of the release: a part of tests/reference/data.
FILE = Path(__file__).with_name('reference.npz')
TRUNK = dict(patch_size=16, embed_dim=48, depth=3, num_heads=4)
SIDE, LARGER_SIDE, VOCABULARY, CLASSES = 64, 96, 96, 10
STEPS = 20
TOLERANCE = 1e-4  # in float32, relative to the largest number
HALF_TOLERANCE = 0.02  # of a loss in bfloat16
# Share of float64's tokens that a dtype of the tokenizer must keep; float16, as in the release, keeps 99.9 %.
MIN_KEPT = 0.998
MEND = 'train with another version of torch or of the driver, and report this one'
Numbers = Mapping[str, Tensor]


@dataclass(frozen=True)
class Check:
    """A comparison: `error` is the largest difference over the largest expected number, or a share of tokens."""

    name: str
    error: float
    problem: Problem | None = None


@cache
def read_numbers() -> Numbers:
    """The release's numbers by name; `weight/` and `transfer/` begin the names of weights."""
    with np.load(FILE, allow_pickle=False) as file:
        return {name: torch.from_numpy(np.asarray(file[name])) for name in file.files}


def compare(name: str, actual: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> Check:
    actual, expected = actual.detach().double().cpu(), expected.double().cpu()
    error = float((actual - expected).abs().max() / expected.abs().max())
    if error <= tolerance:  # not so for NaN
        return Check(name, error)
    sentence = f'is off by {100 * error:.2g} % (allowed {100 * tolerance:.2g} %)'
    if not actual.isfinite().all():
        sentence = 'has infinite or NaN numbers'
    return Check(name, error, Problem(name, f'{sentence}; {MEND}'))


class _GivenTokens(nn.Module):
    """A tokenizer whose images are the tokens."""

    vocab_size = VOCABULARY

    def encode(self, views: Tensor) -> Tensor:
        return views


def _pretraining_model(numbers: Numbers) -> MaskedImageModel:
    biases = dict(use_rel_pos_bias=False, use_shared_rel_pos_bias=True)
    trunk = BEiT(SIDE, **TRUNK, **biases, use_mask_token=True, out_type='raw')
    model = MaskedImageModel(trunk, VisualTokens(_GivenTokens()))
    names = {name.removeprefix('weight/'): tensor for name, tensor in numbers.items() if name.startswith('weight/')}
    model.load_state_dict({n if n.startswith('lm_head') else f'backbone.{n}': x for n, x in names.items()})
    return model


def _batch(numbers: Numbers, device: torch.device | str, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    images, tokens, mask = (numbers[name].to(device) for name in ('images', 'tokens', 'mask'))
    return images.to(dtype), tokens, mask


def check_pretraining(device: torch.device, numbers: Numbers) -> Iterator[Check]:
    """Loss and gradients of the release in float32, and the loss as recipes compute it, in bfloat16."""
    model = _pretraining_model(numbers).to(device)
    loss = model.loss(*_batch(numbers, device))['loss']
    loss.backward()
    yield compare('pre-training loss', loss, numbers['loss'])
    parameters = dict(model.named_parameters())
    checks = []
    for name in (name for name in numbers if name.startswith('gradient/')):
        own = name.removeprefix('gradient/')
        gradient = parameters.get(own, parameters.get(f'backbone.{own}')).grad
        check = compare('pre-training gradients', gradient, numbers[name])
        if check.problem:
            problem = check.problem._replace(key=f'pre-training gradient of {own}')
            check = Check(check.name, check.error, problem)
        checks.append(check)
    yield max(checks, key=lambda check: (check.problem is not None, check.error))
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
        loss = model.loss(*_batch(numbers, device))['loss']
    yield compare('pre-training loss in bfloat16', loss, numbers['loss'], HALF_TOLERANCE)


def check_steps(
    device: torch.device, numbers: Numbers, steps: Callable[[torch.device, Numbers, torch.dtype], Tensor] | None = None
) -> Iterator[Check]:
    """Losses of optimizer steps in float32 against float64 on the CPU."""
    steps = steps or train
    expected = steps(torch.device('cpu'), numbers, torch.float64)
    yield compare(f'{STEPS} training steps', steps(device, numbers, torch.float32), expected, 10 * TOLERANCE)


def train(device: torch.device, numbers: Numbers, dtype: torch.dtype) -> Tensor:
    """Losses (STEPS,) of a training on one batch, with AdamW and clipping as in the recipes."""
    model = _pretraining_model(numbers).to(device, dtype)
    optimizer = dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05, fused=True)
    options = dict(type='beit_mm.AutocastOptimWrapper', optimizer=optimizer, clip_grad=dict(max_norm=3.0))
    wrapper = LayerDecayOptimWrapperConstructor(options)(model)
    losses = []
    for _ in range(STEPS):
        losses.append(model.loss(*_batch(numbers, device, dtype))['loss'])
        wrapper.update_params(losses[-1])
    return torch.stack(losses).detach()


@torch.no_grad()
def check_classifier(device: torch.device, numbers: Numbers) -> Iterator[Check]:
    """Logits of the release at a larger image size, from the pre-trained weights with resized bias tables."""
    head = dict(type='LinearClsHead', num_classes=CLASSES, in_channels=TRUNK['embed_dim'])
    model = ImageClassifier(dict(type='beit_mm.BEiT', img_size=LARGER_SIDE, **TRUNK), head=head)
    pretrained = _pretraining_model(numbers).state_dict()
    model.load_state_dict({name: x for name, x in pretrained.items() if not name.startswith('lm_head')}, strict=False)
    weights = {name.removeprefix('transfer/'): x for name, x in numbers.items() if name.startswith('transfer/')}
    model.load_state_dict({**model.state_dict(), **weights})
    logits = model.eval().to(device)(numbers['larger_images'].to(device))
    yield compare('fine-tuned logits', logits, numbers['logits'])


def _pictures(model: nn.Module) -> Tensor:
    """The bundled pictures (B, 3, 96, 96) as a model takes them, float32."""
    from beit_mm.apis.trial import FOLDER

    pixels = np.stack([read_image(str(path)) for path in sorted((FOLDER / 'pictures').iterdir())])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    preprocessor = model.data_preprocessor
    return (images - preprocessor.mean) / preprocessor.std if hasattr(preprocessor, 'mean') else images / 255


@torch.no_grad()
def check_segmentor(device: torch.device) -> Iterator[Check]:
    """Logits of the demonstration's segmentor in float32 against float64 on the CPU."""
    from beit_mm.apis.trial import load_small_model

    model = load_small_model('segment', weights='segment').eval()
    images = _pictures(model)
    metas = [dict(img_shape=images.shape[2:])]
    expected = copy.deepcopy(model).double().encode_decode(images.double(), metas)
    yield compare('segmentation logits', model.to(device).encode_decode(images.to(device), metas), expected)


@torch.no_grad()
def check_tokens(device: torch.device, encode: Callable[[nn.Module, Tensor], Tensor] | None = None) -> Iterator[Check]:
    """Share of float64's tokens that the demonstration's tokenizer keeps in each dtype; `error` is that share.

    Args:
        encode: from the tokenizer, in one of its dtypes, and images to tokens; None for its own method.
    """
    from beit_mm.apis.trial import load_small_model

    model = load_small_model('tokenizer', weights='tokenizer').eval()
    images = _pictures(model)
    expected = copy.deepcopy(model).double().encode_logits(images.double()).argmax(dim=1)
    model, images = model.to(device), images.to(device)
    for dtype in ENCODE_DTYPES:
        model.encode_dtype = dtype
        tokens = encode(model, images) if encode else model.encode(images)
        kept = float((tokens.cpu() == expected).float().mean())
        name = f'tokens in {dtype}'
        problem = None
        if kept < MIN_KEPT and dtype == 'float32':  # others are only not chosen
            what = f"the tokenizer keeps {100 * kept:.2f} % of float64's tokens (expected at least {100 * MIN_KEPT} %)"
            problem = Problem(name, f'{what}; {MEND}')
        yield Check(name, kept, problem)
