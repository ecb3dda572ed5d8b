"""What a pre-trained model makes of images whose patches are partly masked."""

import math
import random
import zlib
from collections.abc import Sequence

import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmengine.model import BaseModel

from beit_mm.config.parts import walk
from beit_mm.datasets import BlockwiseMaskGenerator, RandomMaskGenerator
from beit_mm.datasets.images import resize_image, sides_for
from beit_mm.datasets.seeds import derive_seed
from beit_mm.datasets.transforms.formatting import channels_first
from beit_mm.datasets.transforms.masking import MaskGenerator
from beit_mm.engine.runners.random_states import untouched_random_states
from beit_mm.models.backbones.layers import patch_grid
from beit_mm.models.tokenizers.discrete_vae import STRIDE
from beit_mm.registry import TRANSFORMS
from beit_mm.visualization.reconstruction import decoding_tokenizer, reconstruct_batch, split_images

from .models import Model
from .predicting import collect, Predictions, ready_model, Results
from .sources import Images

GENERATORS = dict(blockwise=BlockwiseMaskGenerator, random=RandomMaskGenerator)
Size = tuple[int, int] | None


def reconstruct(
    model: Model,
    images: Images,
    weights: str | None = None,
    tokenizer: str | Sequence[str] | None = None,
    num_masked: int | None = None,
    mask: str = 'blockwise',
    seed: int = 0,
    size: Size = None,
    device: str | torch.device | None = None,
    batch_size: int = 8,
    options: dict | None = None,
    progress: bool = True,
) -> Results:
    """Predict the visual tokens of masked patches of images from the other patches, and decode them.

    Args:
        model: a masked image model that predicts visual tokens: a name of `list_models()`, the path of a config, a
            Config, or a loaded model.
        images: a file, a folder, an array uint8 in BGR, a picture of Pillow's, or a list of these, see find_images.
        weights: a checkpoint in any layout; with a loaded model, none.
        tokenizer: where the weights hold no tokenizer, as released ones: its file, or OpenAI's two, `encoder.pkl` and
            `decoder.pkl`.
        num_masked: patches to mask of every image; None for the share of the model's config, 75 of 196 in the paper.
        mask: 'blockwise', with the blocks of the config, or 'random', patch by patch.
        seed: of the masks. An image has the same mask wherever it stands in the list.
        size: (H, W) that the trunk sees, multiples of its patch size; None for the image's own ratio, at most 4 to 1,
            with the shorter side as in training, both sides rounded to patches. The tokenizer sees 8 pixels for every
            patch.
        device: where it computes; None for the GPU if there is one, else the CPU.
        batch_size: images given to the model at once, at most, which must follow each other and have one size.
        options: keys of the config to override.
        progress: whether a bar shows how far it is, on standard error, if that is a terminal.

    Returns:
        Per image that could be read a dict of `image` (its name); `original`, `masked`, `tokens_decoded` and
        `completed`, uint8 RGB (8h, 8w, 3) for h x w patches; `tokens` and `predicted`, int64 (h, w), which differ at
        masked patches only; `mask`, bool (h, w); `token_accuracy`, 0 to 1, and `perplexity` at masked patches, see
        Reconstruction. Others are in `skipped`, with the reason by the name.

    Raises:
        FileNotFoundError: If there is no such config, checkpoint or image.
        BadImage: If the only image cannot be read.
        ValueError: If none of several can be read, the model predicts no visual tokens, its tokenizer is missing or
            has no decoder, or num_masked, mask or size does not fit.
    """
    loaded = ready_model(model, weights, device, options, tokenizer=tokenizer)
    return collect(reconstruct_each(loaded, images, num_masked, mask, seed, size, batch_size, progress))


def reconstruct_each(
    model: BaseModel,
    images: Images,
    num_masked: int | None = None,
    mask: str = 'blockwise',
    seed: int = 0,
    size: Size = None,
    batch_size: int = 8,
    progress: bool = True,
) -> Predictions:
    """The same one by one, by a loaded model, for more images than memory holds; see Predictions."""
    decoding_tokenizer(model)  # which says at once what is missing
    if mask not in GENERATORS:
        raise ValueError(f'mask must be one of {", ".join(GENERATORS)}, got {mask!r}')
    trunk = model.backbone
    patch = trunk.patch_embed.patch_size
    if size is not None:
        patch_grid(size, patch)
    trained = generator_of(getattr(model, 'cfg', None))

    def prepare(image: np.ndarray, name: str) -> dict:
        sides = tuple(size or sides_for(image.shape[:2], patch * min(trunk.grid), patch))
        grid = patch_grid(sides, patch)
        view = mmcv.imresize(image, (STRIDE * grid[1], STRIDE * grid[0]), interpolation='lanczos', backend='pillow')
        return dict(
            inputs=channels_first(np.ascontiguousarray(resize_image(image, sides))),
            views=channels_first(np.ascontiguousarray(view)),
        )

    def draw_mask(sample: dict) -> torch.Tensor:
        views = sample['views']
        generator = _fit_generator(mask, tuple(side // STRIDE for side in views.shape[1:]), num_masked, trained)
        random.seed(derive_seed(seed, zlib.crc32(views.numpy().tobytes())))
        return torch.from_numpy(generator.generate())

    def compute(samples: list[dict]) -> list[dict]:
        with untouched_random_states():
            samples = [dict(sample, mask=draw_mask(sample)) for sample in samples]
        batch = model.data_preprocessor(default_collate(samples))
        return [
            dict(made, mask=sample['mask'].numpy())
            for made, sample in zip(split_images(reconstruct_batch(model, **batch)), samples)
        ]

    return Predictions(images, prepare, compute, batch_size, progress)


def generator_of(cfg: Config | None) -> MaskGenerator:
    """The mask generator that a config trains with; the paper's where it has none of ours."""
    for _, node in walk((cfg or {}).get('train_dataloader') or {}, ''):
        if str(node.get('type')).split('.')[-1] in [kind.__name__ for kind in GENERATORS.values()]:
            return TRANSFORMS.build(node)
    return BlockwiseMaskGenerator()


def _fit_generator(kind: str, grid: tuple[int, int], num_masked: int | None, trained: MaskGenerator) -> MaskGenerator:
    """A mask generator for a grid, with the shares of the one that was trained with, which may have another grid."""
    share = grid[0] * grid[1] / trained.num_patches
    if num_masked is None:
        num_masked = max(1, round(share * trained.num_masked))
    if kind == 'random':
        return RandomMaskGenerator(grid, num_masked)
    blocks = trained if isinstance(trained, BlockwiseMaskGenerator) else BlockwiseMaskGenerator()
    min_block_size = max(1, round(blocks.min_block_size * grid[0] * grid[1] / blocks.num_patches))
    return BlockwiseMaskGenerator(grid, num_masked, min_block_size, math.exp(-blocks.log_aspect))
