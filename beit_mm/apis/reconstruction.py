"""Reconstructions of images whose patches are partly masked."""

import math
import random
import zlib

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmengine.registry import TRANSFORMS
from torch import Tensor

from beit_mm.config.parts import walk
from beit_mm.datasets import BlockwiseMaskGenerator, RandomMaskGenerator
from beit_mm.datasets.images import resize_image, size_for
from beit_mm.datasets.seeding import derive_seed
from beit_mm.datasets.transforms.crops import channels_first
from beit_mm.datasets.transforms.masking import MaskGenerator
from beit_mm.errors import UserError
from beit_mm.models.backbones.layers import patch_grid
from beit_mm.models.inspection import keeping_random_states
from beit_mm.models.tokenizers.discrete_vae import STRIDE
from beit_mm.visualization.reconstruction import decoding_tokenizer, reconstruct_batch

from .inferencer import Inferencer
from .models import Model

GENERATORS = dict(blockwise=BlockwiseMaskGenerator, random=RandomMaskGenerator)


class ReconstructionInferencer(Inferencer):
    """Predicts the visual tokens of masked patches of images from the other patches, and decodes them.

    A result has `image`, the image's name; `mask`, bool (h, w); and the values of `reconstruct_batch`, with pictures of
    8h x 8w pixels for h x w patches. A batch holds neighbors of one size after resizing.

    Args:
        model, weights, loading: see Inferencer; the model must predict visual tokens. If the weights hold no
            tokenizer, like released ones, `tokenizer` is its file, or OpenAI's `encoder.pkl` and `decoder.pkl`.
        num_masked: patches to mask in every image; None for the share of the model's config, 75 of 196 in the paper.
        mask: 'blockwise', with the blocks of the config, or 'random', patch by patch.
        seed: of the masks. An image has the same mask wherever it comes in the list.
        size: (H, W) that the trunk sees, multiples of its patch size; None for the image's own ratio, at most 4 to 1,
            with the shorter side as in training. The tokenizer sees 8 pixels per patch.

    Raises:
        UserError: Also if the tokenizer is missing or has no decoder, or an option does not fit.
    """

    batch_size = 8

    def __init__(
        self,
        model: Model,
        weights: str | None = None,
        num_masked: int | None = None,
        mask: str = 'blockwise',
        seed: int = 0,
        size: tuple[int, int] | None = None,
        **loading,
    ):
        if mask not in GENERATORS:
            raise UserError(f'mask must be one of {", ".join(GENERATORS)}, got {mask!r}')
        super().__init__(model, weights, **loading)
        decoding_tokenizer(self.model)  # an error says what is missing
        self.trunk = self.model.backbone
        self.patch_size = self.trunk.patch_embed.patch_size
        self.view_patch_size = getattr(self.model.target.tokenizer, 'patch_size', STRIDE)
        if size is not None:
            patch_grid(size, self.patch_size)
        self.num_masked, self.mask, self.seed, self.size = num_masked, mask, seed, size
        self.trained_generator = _find_generator(getattr(self.model, 'cfg', None))

    def prepare(self, image: np.ndarray, name: str) -> dict:
        short_side = self.patch_size * min(self.trunk.grid)
        size = tuple(self.size or size_for(image.shape[:2], short_side, self.patch_size))
        grid = patch_grid(size, self.patch_size)
        view = resize_image(image, (self.view_patch_size * grid[0], self.view_patch_size * grid[1]), 'lanczos')
        resized = resize_image(image, size)
        inputs, views = (channels_first(np.ascontiguousarray(pixels)) for pixels in (resized, view))
        return dict(inputs=inputs, views=views)

    def compute(self, samples: list[dict]) -> list[dict]:
        with keeping_random_states():
            samples = [dict(sample, mask=self._draw_mask(sample['views'])) for sample in samples]
        results = reconstruct_batch(self.model, **self.model.data_preprocessor(default_collate(samples)))
        return [dict(result, mask=sample['mask'].numpy()) for result, sample in zip(results, samples)]

    def _draw_mask(self, view: Tensor) -> Tensor:
        """The mask of an image, bool (h, w), which depends on its pixels and the seed only.

        The shares are those of the training's generator, whose grid may be another.
        """
        height, width = (side // self.view_patch_size for side in view.shape[1:])
        trained = self.trained_generator
        share = height * width / trained.num_patches
        num_masked = max(1, round(share * trained.num_masked)) if self.num_masked is None else self.num_masked
        random.seed(derive_seed(self.seed, zlib.crc32(view.numpy().tobytes())))
        if self.mask == 'random':
            generator = RandomMaskGenerator((height, width), num_masked)
        else:
            blocks = trained if isinstance(trained, BlockwiseMaskGenerator) else BlockwiseMaskGenerator()
            min_block_size = max(1, round(blocks.min_block_size * height * width / blocks.num_patches))
            min_aspect = math.exp(-blocks.log_aspect)
            generator = BlockwiseMaskGenerator((height, width), num_masked, min_block_size, min_aspect)
        return torch.from_numpy(generator.generate())


def _find_generator(cfg: Config | None) -> MaskGenerator:
    """The mask generator that a config trains with; the paper's if it has none of ours."""
    for _, node in walk((cfg or {}).get('train_dataloader') or {}, ''):
        if str(node.get('type')).split('.')[-1] in [generator.__name__ for generator in GENERATORS.values()]:
            return TRANSFORMS.build(node)
    return BlockwiseMaskGenerator()
