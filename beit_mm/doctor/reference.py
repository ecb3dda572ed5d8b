"""The model on this device against numbers that the BEiT release printed, and against float64 on the CPU."""

import copy
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmpretrain.models import ImageClassifier
from torch import nn, Tensor

from beit_mm.apis.trial import FOLDER, load_small_model
from beit_mm.checks.problems import Problem
from beit_mm.datasets.images import read_image
from beit_mm.engine.optimizers.constructors import LayerDecayOptimWrapperConstructor
from beit_mm.models import BEiT, MaskedImageModel, VisualTokens
from beit_mm.models.tokenizers.discrete_vae import ENCODE_DTYPES

# Weights, images, tokens, losses, gradients and logits of the release: a part of tests/reference/data.
FILE = Path(__file__).with_name('reference.npz')
TRUNK = dict(patch_size=16, embed_dim=48, depth=3, num_heads=4)
SIDE, LARGER_SIDE, VOCABULARY, CLASSES, STEPS = 64, 96, 96, 10, 20
ADAMW = dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05, fused=True)
OPTIMIZER = dict(type='beit_mm.AutocastOptimWrapper', optimizer=ADAMW, clip_grad=dict(max_norm=3.0))
LOSS, LOGITS, GRADIENT = 'pre-training loss', 'fine-tuned logits', 'pre-training gradient of '
HALF, TRAINING = f'{LOSS} in bfloat16', f'{STEPS} training steps'
TOLERANCE = 1e-4  # in float32, relative to the largest number
TOLERANCES = {HALF: 0.02, TRAINING: 1e-3}
# Share of float64's tokens that a dtype of the tokenizer must keep; float16, as in the release, keeps 99.9 %.
MIN_KEPT = 0.998
MEND = 'train with another version of torch or of the driver, and report this one'
Numbers = Mapping[str, Tensor]


class Check(NamedTuple):
    """A comparison: `error` is the largest difference over the largest expected number, or a share of tokens."""

    name: str
    error: float
    problem: Problem | None = None


@cache
def read_numbers() -> Numbers:
    """The release's numbers by name; `weight/` and `transfer/` begin the names of weights."""
    with np.load(FILE, allow_pickle=False) as file:
        return {name: torch.from_numpy(np.asarray(file[name])) for name in file.files}


def check_all(device: torch.device, numbers: Numbers) -> list[Check]:
    """All comparisons. Of the gradients only the worst, by its name if it is wrong."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # models so small only wait for several
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            expected = compute(torch.device('cpu'), numbers, torch.float64)
            expected |= {LOSS: numbers['loss'], LOGITS: numbers['logits']}
            expected |= {GRADIENT + name[9:]: x for name, x in numbers.items() if name.startswith('gradient/')}
            checks = [compare(name, x, expected[name]) for name, x in compute(device, numbers).items()]
        gradients = [check for check in checks if check.name.startswith(GRADIENT)]
        worst = max(gradients, key=lambda check: (check.problem is not None, check.error))
        others = [check for check in checks if check not in gradients]
        return [*others, worst._replace(name='pre-training gradients'), *check_tokens(device)]
    finally:
        torch.set_num_threads(threads)


def compare(name: str, actual: Tensor, expected: Tensor) -> Check:
    actual, expected = actual.detach().double().cpu(), expected.double().cpu()
    error = float((actual - expected).abs().max() / expected.abs().max())
    allowed = TOLERANCES.get(name, TOLERANCE)
    if error <= allowed:  # not so for NaN
        return Check(name, error)
    sentence = f'is off by {100 * error:.2g} % (allowed {100 * allowed:.2g} %)'
    if not actual.isfinite().all():
        sentence = 'has infinite or NaN numbers'
    return Check(name, error, Problem(name, f'{sentence}; {MEND}'))


def compute(device: torch.device, numbers: Numbers, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """By name: a pre-training loss, that in bfloat16 as recipes have it (unless dtype is float64), its gradients, the
    losses (STEPS,) of a training on one batch, logits at a larger image size from the same weights with resized bias
    tables, and logits of the demonstration's segmentor.
    """
    images, tokens, mask = (numbers[name].to(device) for name in ('images', 'tokens', 'mask'))
    model = pretraining_model(numbers).to(device, dtype)
    loss = model.loss(images.to(dtype), tokens, mask)['loss']
    loss.backward()
    results = {LOSS: loss}
    results |= {GRADIENT + name.removeprefix('backbone.'): x.grad for name, x in model.named_parameters()}
    model.zero_grad()
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.float32):
        results[HALF] = model.loss(images.to(dtype), tokens, mask)['loss']
    wrapper = LayerDecayOptimWrapperConstructor(OPTIMIZER)(model)
    losses = []
    for _ in range(STEPS):
        losses.append(model.loss(images.to(dtype), tokens, mask)['loss'])
        wrapper.update_params(losses[-1])
    results[TRAINING] = torch.stack(losses)
    with torch.no_grad():
        results[LOGITS] = _classifier(numbers).to(device, dtype)(numbers['larger_images'].to(device, dtype))
        segmentor, pictures = _small_model('segment')
        metas = [dict(img_shape=pictures.shape[2:])]
        results['segmentation logits'] = segmentor.to(device, dtype).encode_decode(pictures.to(device, dtype), metas)
    return results


class _GivenTokens(nn.Module):
    """A tokenizer whose images are the tokens."""

    vocab_size = VOCABULARY

    def encode(self, views: Tensor) -> Tensor:
        return views


def pretraining_model(numbers: Numbers) -> MaskedImageModel:
    biases = dict(use_rel_pos_bias=False, use_shared_rel_pos_bias=True)
    trunk = BEiT(SIDE, **TRUNK, **biases, use_mask_token=True, out_type='raw')
    model = MaskedImageModel(trunk, VisualTokens(_GivenTokens()))
    names = {name.removeprefix('weight/'): tensor for name, tensor in numbers.items() if name.startswith('weight/')}
    model.load_state_dict({n if n.startswith('lm_head') else f'backbone.{n}': x for n, x in names.items()})
    return model


def _classifier(numbers: Numbers) -> ImageClassifier:
    head = dict(type='LinearClsHead', num_classes=CLASSES, in_channels=TRUNK['embed_dim'])
    model = ImageClassifier(dict(type='beit_mm.BEiT', img_size=LARGER_SIDE, **TRUNK), head=head)
    pretrained = pretraining_model(numbers).state_dict()
    model.load_state_dict({name: x for name, x in pretrained.items() if not name.startswith('lm_head')}, strict=False)
    weights = {name.removeprefix('transfer/'): x for name, x in numbers.items() if name.startswith('transfer/')}
    model.load_state_dict({**model.state_dict(), **weights})
    return model.eval()


def _small_model(name: str) -> tuple[nn.Module, Tensor]:
    """One of the demonstration's models, and the bundled pictures (B, 3, 96, 96) as it takes them, float32."""
    model = load_small_model(name, weights=name).eval()
    pixels = np.stack([read_image(str(path)) for path in sorted((FOLDER / 'pictures').iterdir())])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    preprocessor = model.data_preprocessor
    has_mean = hasattr(preprocessor, 'mean')
    return model, (images - preprocessor.mean) / preprocessor.std if has_mean else images / 255


@torch.no_grad()
def check_tokens(device: torch.device) -> Iterator[Check]:
    """Share of float64's tokens that the demonstration's tokenizer keeps in each dtype; `error` is that share."""
    model, images = _small_model('tokenizer')
    expected = copy.deepcopy(model).double().encode_logits(images.double()).argmax(dim=1)
    model.to(device)
    for dtype in ENCODE_DTYPES:
        model.encode_dtype = dtype
        kept = float((model.encode(images.to(device)).cpu() == expected).float().mean())
        problem = None
        if kept < MIN_KEPT and dtype == 'float32':  # others are only not chosen
            what = f"the tokenizer keeps {100 * kept:.2f} % of float64's tokens (expected at least {100 * MIN_KEPT} %)"
            problem = Problem(f'tokens in {dtype}', f'{what}; {MEND}')
        yield Check(f'tokens in {dtype}', kept, problem)


def kept_dtypes(checks: list[Check]) -> set[str]:
    """Dtypes of the tokenizer that keep enough tokens."""
    tokens = [check for check in checks if check.name.startswith('tokens')]
    return {check.name.rpartition(' ')[2] for check in tokens if check.error >= MIN_KEPT}
