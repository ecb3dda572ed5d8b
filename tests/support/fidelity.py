"""Compare other implementations with ours: seeded weights, our models, their files, and a table of differences."""

import math
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import load_checkpoint
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from mmseg.models import build_segmentor
from torch import nn, Tensor

from beit_mm.checkpoint.converting import convert
from beit_mm.models import MaskedImageModel, VisualTokens

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / 'configs/_base_/models'
REFERENCE = ROOT / 'tests/reference/data'
TOLERANCE = 1e-4  # of float32 logits
SMALL = dict(img_size=64, embed_dim=64, depth=3, num_heads=4)  # a shrunk trunk of ours


class Comparison(NamedTuple):
    layout: str
    model: str
    how: str
    difference: float
    magnitude: float

    @property
    def relative(self) -> float:
        return self.difference / self.magnitude


COMPARISONS: list[Comparison] = []


def compare(layout: str, model: str, how: str, actual: Tensor, expected: Tensor) -> None:
    """Outputs must agree within 1e-4, and within 1e-4 of the largest where they are small; adds a row to the table."""
    assert actual.shape == expected.shape and actual.dtype == expected.dtype == torch.float32
    difference, magnitude = float((actual - expected).detach().abs().max()), float(expected.detach().abs().max())
    COMPARISONS.append(Comparison(layout, model, how, difference, magnitude))
    assert difference < TOLERANCE * min(1, magnitude), COMPARISONS[-1]


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Same names, and tensors equal bit for bit."""
    assert set(actual) == set(expected), set(actual) ^ set(expected)
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype and torch.equal(actual[name], tensor), name


@torch.no_grad()
def draw(model: nn.Module, seed: int = 0) -> nn.Module:
    """Seeded parameters and buffers, none at its initial value, that keep activations moderate; evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if name.endswith('num_batches_tracked'):
            tensor.fill_(7)
        elif not tensor.is_floating_point():  # follows from the grid
            continue
        elif name.endswith('running_var') or 'gamma_' in name or 'lambda_' in name:
            tensor.uniform_(0.3, 1.2, generator=generator)
        elif name.endswith(('.weight', '.w')):
            is_norm = tensor.ndim == 1
            std = 0.2 if is_norm else 1 / math.sqrt(tensor[0].numel())
            tensor.normal_(float(is_norm), std, generator=generator)
        else:  # with large biases a tokenizer's tokens would not depend on its image
            tensor.normal_(0, 0.03 if name.endswith('.b') else 0.3, generator=generator)
    model.eval()  # which returns nothing for trunks of MMSegmentation
    return model


def images(height: int, width: int = 0, count: int = 2) -> Tensor:
    """Normalised images (count, 3, height, width)."""
    return torch.randn(count, 3, height, width or height, generator=torch.Generator().manual_seed(1))


def coloured_squares(side: int, count: int = 2) -> Tensor:
    """Images for a tokenizer: uint8 (count, 3, side, side), every 8 x 8 pixels of a colour, so that tokens differ."""
    squares = torch.randint(
        256, (count, 3, side // 8, side // 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(3)
    )
    return squares.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)


def masks(height: int, width: int = 0, count: int = 2) -> Tensor:
    """Bool (count, height, width), about half of them True."""
    return torch.rand(count, height, width or height, generator=torch.Generator().manual_seed(2)) < 0.5


def load(model: nn.Module, path: str | Path, strict: bool = True) -> nn.Module:
    """Load as a user would, into a model with other weights."""
    draw(model, seed=99)
    load_checkpoint(model, str(path), map_location='cpu', strict=strict)
    model.eval()
    return model


def save(path: Path, model: nn.Module) -> Path:
    """Save as a Runner would."""
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    return path


def convert_to(layout: str, source: str | Path, target: Path, left_out: tuple = (), **kwargs) -> Path:
    """Convert; only names that start with one of `left_out` may be left out."""
    for line in convert(str(source), str(target), layout, **kwargs):
        assert ' left out' not in line or line.strip().startswith(left_out), line
    return target


# Our models, from the configs that recipes start from


def classifier(size: str = 'base', num_classes: int = 1000, **backbone) -> nn.Module:
    config = Config.fromfile(CONFIGS / f'beit_{size}_classifier.py').model.to_dict()
    config['backbone'].update(backbone)
    config['head'].update(in_channels=config['backbone']['embed_dim'], num_classes=num_classes)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MMPRETRAIN_MODELS.build(config)


def segmentor(num_classes: int = 9, channels: int = 0, auxiliary: dict | None = None, **backbone) -> nn.Module:
    """The head has `channels`, by default those of the trunk; `auxiliary` are options of the auxiliary head."""
    config = Config.fromfile(CONFIGS / 'beit_base_upernet.py').model.to_dict()
    config['backbone'].update(backbone)
    width = config['backbone']['embed_dim']
    config['neck'].update(embed_dim=width)
    config['decode_head'].update(in_channels=[width] * 4, channels=channels or width, num_classes=num_classes)
    config['auxiliary_head'].update(
        {**dict(in_channels=width, channels=16, num_classes=num_classes), **(auxiliary or {})}
    )
    for part in ('neck', 'decode_head', 'auxiliary_head'):
        config[part]['norm_cfg'] = dict(type='BN')
    with DefaultScope.overwrite_default_scope('mmseg'):
        return build_segmentor(config)


class TokensAsViews(nn.Module):
    """A tokenizer without weights: the views are the tokens."""

    def __init__(self, vocab_size: int):
        super().__init__()
        self.vocab_size = vocab_size

    def encode(self, views: Tensor) -> Tensor:
        return views


def pre_training_model(
    vocab_size: int, target: dict | None = None, bottleneck: dict | None = None, **backbone
) -> MaskedImageModel:
    config = Config.fromfile(CONFIGS / 'beit_base_pretrain.py').model.to_dict()
    config['backbone'].update(backbone)
    return MaskedImageModel(
        config['backbone'], target or VisualTokens(TokensAsViews(vocab_size)), bottleneck=bottleneck
    )


@torch.no_grad()
def segmentation_logits(model: nn.Module, pixels: Tensor) -> tuple:
    """Of the decode head and of the auxiliary head; for MMSegmentation's models and ours."""
    features = model.extract_feat(pixels)
    return model.decode_head(features), model.auxiliary_head(features)


@torch.no_grad()
def pre_training_logits(model: MaskedImageModel, pixels: Tensor, mask: Tensor) -> Tensor:
    """Of every patch, (B, h * w, vocab_size)."""
    return model.lm_head(model(pixels, mask=mask)[-1][:, 1:])
