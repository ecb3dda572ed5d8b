"""Tiny models of random weights, and a batch and images for them."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from beit_mm.apis import load_model
from beit_mm.models import BEiT, DiscreteVAE, MaskedImageModel, NormalisedPixels, VisualTokens
from support import CONFIGS

VOCABULARY = 16


def tokenizer() -> DiscreteVAE:
    return DiscreteVAE(vocab_size=VOCABULARY, n_hid=8, n_init=8, blocks_per_group=1)


SHARED = dict(use_rel_pos_bias=False, use_shared_rel_pos_bias=True)
PRE_TRAINING = dict(SHARED, use_mask_token=True, out_type='raw')


def trunk(**options) -> BEiT:
    """Of 4 x 4 patches. No parameter is zero or one, so that none can be forgotten unseen."""
    torch.manual_seed(0)
    model = BEiT(**{**dict(img_size=64, embed_dim=32, depth=2, num_heads=4), **options})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def pixels(height: int, width: int, batch: int = 2) -> torch.Tensor:
    """Normalised images."""
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(height * 1000 + width))


def masked_image_model(target=None) -> MaskedImageModel:
    """Of 4 x 4 patches."""
    torch.manual_seed(0)
    trunk = BEiT(img_size=64, embed_dim=32, depth=2, num_heads=2, drop_path_rate=0.5, drop_rate=0.5, **PRE_TRAINING)
    return MaskedImageModel(
        trunk,
        target or VisualTokens(tokenizer()),
        data_preprocessor=dict(type='beit_mm.TwoViewPreprocessor', mean=[120.0] * 3, std=[60.0] * 3),
    )


def pixel_model() -> MaskedImageModel:
    return masked_image_model(NormalisedPixels())


def raw_batch(size: int = 3) -> dict:
    """As a loader gives it, with another number of masked patches for every image."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.zeros(size, 16, dtype=torch.bool)
    for index in range(size):
        mask[index, torch.randperm(16, generator=generator)[: 4 + index]] = True
    return dict(
        inputs=torch.randint(256, (size, 3, 64, 64), generator=generator).byte(),
        views=torch.randint(256, (size, 3, 32, 32), generator=generator).byte(),
        mask=mask.view(size, 4, 4),
    )


# Models from recipes, as the interfaces take them

TRUNK = {f'model.backbone.{key}': value for key, value in dict(img_size=32, embed_dim=32, depth=2, num_heads=2).items()}
CLASSIFIER = {
    **TRUNK,
    'model.head.in_channels': 32,
    'test_dataloader.dataset.pipeline.1.scale': 36,
    'test_dataloader.dataset.pipeline.2.crop_size': 32,
}
SEGMENTOR = {
    **TRUNK,
    'model.backbone.out_indices': [0, 0, 1, 1],
    'model.neck.embed_dim': 32,
    'model.decode_head.in_channels': [32] * 4,
    'model.decode_head.channels': 16,
    'model.decode_head.num_classes': 7,
    'model.auxiliary_head.in_channels': 32,
    'model.auxiliary_head.num_classes': 7,
    'model.data_preprocessor.size': (32, 32),
    'model.data_preprocessor.test_cfg.size': (32, 32),
    'model.test_cfg.crop_size': (32, 32),
    'model.test_cfg.stride': (20, 20),
    'test_pipeline.1.scale': (192, 48),
    'test_dataloader.dataset.pipeline.1.scale': (192, 48),
    'test_dataloader.dataset.metainfo.classes': ['wall', 'building', 'sky', 'floor', 'tree', 'ceiling', 'road'],
}
TOKENIZER = {
    f'model.target.tokenizer.{key}': value
    for key, value in dict(vocab_size=16, n_hid=8, n_init=8, blocks_per_group=1).items()
}


class Tiny(NamedTuple):
    """A config, its options and a checkpoint: what the interfaces take as `model`, `weights` and `options`."""

    model: str
    weights: Path
    options: dict[str, object]

    def load(self) -> torch.nn.Module:
        return load_model(self.model, self.weights, 'cpu', options=self.options)


def make(folder: Path, name: str, options: dict[str, object], no_start: str) -> Tiny:
    torch.manual_seed(0)
    config = str(CONFIGS / name)
    model = load_model(config, options={**options, no_start: None}, device='cpu')
    with torch.no_grad():
        # Heads are drawn so small that all classes would be alike; a tokenizer whose biases are zero was never trained.
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    torch.save(dict(state_dict=model.state_dict()), folder / 'weights.pth')
    return Tiny(config, folder / 'weights.pth', options)


def draw(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth image, uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return np.asarray(small.resize((width, height), Image.BICUBIC))
