"""The settings that the sources publish, written a second time, independently of the configs.

Sources: the papers (arXiv 2106.08254 and 2208.06366) with their appendices, the commands of the BEiT releases, and
DeiT's commands where the paper refers to DeiT.
"""

from typing import NamedTuple

IMAGENET = 1281167
IMAGENET_22K = 14197122
CIFAR = 50000


class Recipe(NamedTuple):
    """Published settings of one training.

    Attributes:
        hardware: GPUs, images per GPU, steps accumulated.
        batch: images per update.
        lr, floor: rate at its highest, and where the cosine ends.
        warmup: epochs, or steps where `images` is None.
        length: epochs, or steps where `images` is None.
        images: in the training set; None where the length is counted in steps and the rate falls as a line.
        layer_decay, drop_path, weight_decay: as everywhere.
        clip: largest norm of the gradients, None for no limit.
        mixes: whether Mixup and CutMix are on.
        score: as the header prints it, '' if nobody published one.
        warmup_updates: instead of epochs.
        betas: of AdamW.
    """

    hardware: tuple[int, int, int]
    batch: int
    lr: float
    floor: float
    warmup: int
    length: int
    images: int | None
    layer_decay: float = 1.0
    drop_path: float = 0.1
    weight_decay: float = 0.05
    clip: float | None = None
    mixes: bool = False
    score: str = ''
    warmup_updates: int | None = None
    betas: tuple[float, float] = (0.9, 0.999)

    @property
    def updates(self) -> int:
        """Updates of the whole run; an epoch's incomplete last batch is dropped."""
        return self.length * (self.images // self.batch) if self.images else self.length

    @property
    def warmup_length(self) -> int:
        """Updates of the warm-up."""
        return self.warmup_updates or (self.warmup * (self.images // self.batch) if self.images else self.warmup)


def pretrain(epochs: int, score: str = '', clip: float = 3.0) -> Recipe:
    return Recipe((8, 256, 1), 2048, 1.5e-3, 1e-5, 10, epochs, IMAGENET, clip=clip, score=score)


def pretrain_22k(score: str, clip: float = 3.0) -> Recipe:
    return Recipe((8, 256, 1), 2048, 1.5e-3, 1e-5, 0, 150, IMAGENET_22K, clip=clip, score=score, warmup_updates=10000)


def finetune_base(score: str) -> Recipe:
    return Recipe((8, 128, 1), 1024, 4e-3, 1e-6, 20, 100, IMAGENET, 0.65, mixes=True, score=score)


def finetune_large(score: str) -> Recipe:
    return Recipe((8, 64, 2), 1024, 1e-3, 1e-6, 5, 50, IMAGENET, 0.75, 0.2, mixes=True, score=score)


def further_base(score: str) -> Recipe:
    return Recipe((8, 64, 1), 512, 2e-5, 1e-6, 5, 30, IMAGENET, 0.85, weight_decay=1e-8, score=score)


def further_large(score: str) -> Recipe:
    return Recipe((8, 32, 2), 512, 2e-5, 1e-6, 5, 30, IMAGENET, 0.9, 0.4, 1e-8, score=score)


def cifar(score: str) -> Recipe:
    return Recipe((8, 64, 1), 512, 4e-3, 1e-6, 20, 150, CIFAR, 0.65, weight_decay=0.3, mixes=True, score=score)


def pretrain_v2(epochs: int, score: str) -> Recipe:
    drop_path, betas = {300: (0.0, (0.9, 0.98)), 1600: (0.1, (0.9, 0.999))}[epochs]
    return pretrain(epochs, score)._replace(drop_path=drop_path, betas=betas)


def finetune_v2(size: str, lr: float, epochs: int, warmup: int, layer_decay: float, drop_path: float, score: str):
    hardware, mixes = ((8, 128, 1) if size == 'base' else (8, 64, 2)), lr > 1e-4
    return Recipe(hardware, 1024, lr, 1e-6, warmup, epochs, IMAGENET, layer_decay, drop_path, mixes=mixes, score=score)


def finetune_v2_21k(hardware: tuple[int, int, int], drop_path: float) -> Recipe:
    return Recipe(hardware, 4096, 6e-4, 1e-6, 20, 90, IMAGENET_22K, 0.75, drop_path, mixes=True)


def segment(lr: float, layer_decay: float, drop_path: float = 0.1, score: str = '') -> Recipe:
    return Recipe((8, 2, 1), 16, lr, 0.0, 1500, 160000, None, layer_decay, drop_path, score=score)


RECIPES = {
    'beit_pretrain.py': pretrain(800, '83.2 % top-1, 45.6 % mIoU'),
    'pretrain/beit_base_1k_300e.py': pretrain(300, '83.22 % top-1, 45.70 % mIoU'),
    'pretrain/beit_base_1k_300e_random_masks.py': pretrain(300, '82.77 % top-1, 42.93 % mIoU'),
    'pretrain/beit_base_1k_300e_pixels.py': pretrain(300, '81.04 % top-1, 41.38 % mIoU'),
    'pretrain/beit_base_1k_300e_pixels_random_masks.py': pretrain(300, '80.50 % top-1, 37.09 % mIoU'),
    'pretrain/beit_base_1k_300e_all_tokens.py': pretrain(300, '82.59 % top-1, 40.93 % mIoU'),
    'pretrain/beit_base_1k_800e_absolute_positions.py': pretrain(800, '83.2 % top-1'),
    'pretrain/beit_large_1k_300e.py': pretrain(300, clip=1.0),
    'pretrain/beit_large_1k_800e.py': pretrain(800, '85.2 % top-1', clip=1.0),
    'pretrain/beit_large_1k_800e_sharded.py': pretrain(800, '85.2 % top-1', clip=1.0),
    'pretrain/beit_base_22k_150e.py': pretrain_22k('83.7 % top-1'),
    'pretrain/beit_large_22k_150e.py': pretrain_22k('86.0 % top-1', clip=1.0),
    'beit_finetune.py': finetune_base('83.2 % top-1'),
    'classify/beit_base_224_pt22k_to_1k.py': finetune_base('83.7 % top-1'),
    'classify/beit_large_224_pt1k_to_1k.py': finetune_large('85.2 % top-1'),
    'classify/beit_large_224_pt22k_to_1k.py': finetune_large('86.0 % top-1'),
    'classify/beit_base_224_pt22k_to_22k.py': Recipe(
        (16, 256, 1), 4096, 3e-3, 1e-6, 5, 90, IMAGENET_22K, 0.65, 0.2, clip=3.0
    ),
    'classify/beit_large_224_pt22k_to_22k.py': Recipe(
        (16, 64, 2), 2048, 2e-3, 1e-6, 5, 90, IMAGENET_22K, 0.75, 0.2, clip=1.0
    ),
    'classify/beit_base_224_22k_to_1k.py': further_base('85.21 % top-1'),
    'classify/beit_base_384_22k_to_1k.py': further_base('86.81 % top-1'),
    'classify/beit_large_224_22k_to_1k.py': further_large('87.48 % top-1'),
    'classify/beit_large_384_22k_to_1k.py': further_large('88.40 % top-1'),
    'classify/beit_large_512_22k_to_1k.py': further_large('88.60 % top-1'),
    'classify/beit_base_384_ft1k_to_1k.py': Recipe(
        (8, 64, 1), 512, 5e-6, 5e-6, 1, 10, IMAGENET, weight_decay=1e-8, mixes=True, score='84.6 % top-1'
    ),
    'classify/beit_large_384_ft1k_to_1k.py': Recipe(
        (8, 32, 2), 512, 5e-6, 5e-6, 1, 10, IMAGENET, 1.0, 0.2, 1e-8, mixes=True, score='86.3 % top-1'
    ),
    'classify/beit_base_224_pt1k_to_cifar100.py': cifar('90.1 % top-1'),
    'classify/beit_base_224_ft1k_to_cifar100.py': cifar('91.8 % top-1'),
    'classify/beit_base_224_scratch_to_1k.py': Recipe(
        (8, 128, 1), 1024, 1e-3, 1e-5, 5, 300, IMAGENET, mixes=True, score='81.8 % top-1'
    ),
    'beit_segment.py': segment(7e-4, 0.65, score='45.6 % mIoU'),
    'segment/beit_base_512_ft22k_to_ade20k.py': segment(3e-5, 0.9),
    'segment/beit_base_640_ft22k_to_ade20k.py': segment(3e-5, 0.9, score='53.6 % mIoU, 54.2 % multi-scale'),
    'segment/beit_large_512_ft22k_to_ade20k.py': segment(2e-5, 0.95, 0.2),
    'pretrain/beitv2_base_1k_300e.py': pretrain_v2(300, '85.0 % top-1'),
    'pretrain/beitv2_base_1k_1600e.py': pretrain_v2(1600, '85.5 % top-1'),
    'pretrain/beitv2_large_1k_300e.py': pretrain_v2(300, '86.6 % top-1'),
    'pretrain/beitv2_large_1k_1600e.py': pretrain_v2(1600, '87.3 % top-1'),
    'classify/beitv2_base_224_pt1k_300e_to_1k.py': finetune_v2('base', 5e-4, 100, 20, 0.65, 0.1, '85.0 % top-1'),
    'classify/beitv2_base_224_pt1k_to_1k.py': finetune_v2('base', 5e-4, 100, 20, 0.6, 0.2, '85.5 % top-1'),
    'classify/beitv2_base_224_ft21k_to_1k.py': finetune_v2('base', 5e-5, 30, 20, 0.75, 0.1, '86.5 % top-1'),
    'classify/beitv2_large_224_pt1k_300e_to_1k.py': finetune_v2('large', 5e-4, 50, 5, 0.8, 0.2, '86.6 % top-1'),
    'classify/beitv2_large_224_pt1k_to_1k.py': finetune_v2('large', 2e-4, 50, 5, 0.8, 0.2, '87.3 % top-1'),
    'classify/beitv2_large_224_ft21k_to_1k.py': finetune_v2('large', 7e-5, 20, 5, 0.8, 0.25, '88.4 % top-1'),
    'classify/beitv2_base_224_pt1k_to_21k.py': finetune_v2_21k((16, 256, 1), 0.1),
    'classify/beitv2_large_224_pt1k_to_21k.py': finetune_v2_21k((16, 128, 2), 0.2),
    'segment/beitv2_base_512_pt1k_to_ade20k.py': segment(5e-5, 0.75, 0.15, '53.1 % mIoU'),
    'segment/beitv2_base_512_ft21k_to_ade20k.py': segment(5e-5, 0.85, 0.15, '53.5 % mIoU'),
    'segment/beitv2_large_512_pt1k_to_ade20k.py': segment(4e-5, 0.9, 0.2, '56.7 % mIoU'),
    'segment/beitv2_large_512_ft21k_to_ade20k.py': segment(3e-5, 0.9, 0.2, '57.5 % mIoU'),
    # Its 160,000 updates are 320,000 steps, which the schedule counts, in the release too.
    'segment/beit_large_640_ft22k_to_ade20k.py': Recipe(
        (8, 1, 2), 16, 2e-5, 0.0, 3000, 320000, None, 0.95, 0.2, score='56.7 % mIoU, 57.0 % multi-scale'
    ),
}

TOKENIZERS_V2 = ['pretrain/beitv2_tokenizer_clip.py', 'pretrain/beitv2_tokenizer_dino.py']
# Also the recipes without published settings.
NAMES = [
    'beit_tokenizer.py',
    *TOKENIZERS_V2,
    'pretrain/beit_tiny_own_data.py',
    'pretrain/beit_small_own_data.py',
    *RECIPES,
]
