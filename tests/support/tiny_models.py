"""A tiny masked image model and a batch for it."""

import torch

from beit_mm.models import BEiT, DiscreteVAE, MaskedImageModel, NormalisedPixels, VisualTokens

VOCABULARY = 16


def tokenizer() -> DiscreteVAE:
    return DiscreteVAE(vocab_size=VOCABULARY, n_hid=8, n_init=8, blocks_per_group=1)


def masked_image_model(target=None) -> MaskedImageModel:
    """Of 4 x 4 patches."""
    torch.manual_seed(0)
    trunk = BEiT(
        img_size=64,
        embed_dim=32,
        depth=2,
        num_heads=2,
        drop_path_rate=0.5,
        drop_rate=0.5,
        use_rel_pos_bias=False,
        use_shared_rel_pos_bias=True,
        use_mask_token=True,
        out_type='raw',
    )
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
