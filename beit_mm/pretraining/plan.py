"""Which model fits a folder of images and a time: sizes of images, trunk, tokenizer and batch."""

import os
from dataclasses import dataclass

import torch
from mmengine.config import Config

from .folder import Folder

# Width, blocks, heads, and the learning rate for 64 images per step: our choice for short trainings.
TRUNKS = dict(mini=(96, 4, 4, 3e-3), tiny=(192, 12, 3, 1.5e-3), small=(384, 12, 6, 1e-3), base=(768, 12, 12, 5e-4))
LARGEST = ((5_000, 'tiny'), (50_000, 'small'))  # trunk for fewer images; more may have any
SIDES = (224, 192, 160, 128, 96)
SMALLEST = 48  # side with patches of 8 pixels
STEPS = 1000  # that a pre-training should have, else a smaller model is taken
MIN_STEPS = 100  # without which there is no pre-training
TOKENIZER_SHARE = 0.25  # of the time for both trainings
MAX_TOKENIZER_STEPS = 500  # as in configs/own_data/tokenizer_kmeans.py


@dataclass(frozen=True)
class Plan:
    """Sizes of both models.

    Attributes:
        trunk: name in TRUNKS.
        widths: embed_dim, depth and num_heads.
        img_size, patch_size: of the trunk's images, in pixels.
        batch: images per step and process.
        workers: of a loader.
    """

    trunk: str
    widths: tuple[int, int, int]
    img_size: int
    patch_size: int
    batch: int
    workers: int

    @property
    def vocab_size(self) -> int:
        """As in configs/demo and in configs/own_data, and fewer for few patches in a step."""
        patches = self.tokenizer_batch * (self.img_size // self.patch_size) ** 2
        return 128 if self.trunk == 'mini' else max(128, min(1024, 2 ** (patches.bit_length() - 3)))

    @property
    def tokenizer_batch(self) -> int:
        return min(self.batch, 64)

    @property
    def cost(self) -> float:
        """Multiplications of the trunk for an image, in millions."""
        width, depth, _ = self.widths
        tokens = (self.img_size // self.patch_size) ** 2 + 1
        return depth * tokens * (12 * width**2 + 2 * tokens * width) / 1e6

    def describe(self) -> str:
        width, depth, _ = self.widths
        grid = self.img_size // self.patch_size
        trunk = f'BEiT {self.trunk} ({width} wide, {depth} blocks)'
        return f'{trunk} on images of {self.img_size} x {self.img_size} pixels in {grid} x {grid} patches'

    def learning_rate(self, processes: int) -> float:
        """Scaled by the square root of the batch."""
        return float(f'{TRUNKS[self.trunk][3] * (self.batch * processes / 64) ** 0.5:.2g}')


def plan_of(cfg: Config) -> Plan:
    """The plan of a config with a trunk of any sizes; its name is that of the plan that is most nearly as wide."""
    backbone, loader = cfg.model.backbone, cfg.train_dataloader
    trunk = min(TRUNKS, key=lambda name: abs(TRUNKS[name][0] - backbone.embed_dim))
    widths = backbone.embed_dim, backbone.depth, backbone.num_heads
    return Plan(trunk, widths, backbone.img_size, backbone.patch_size, loader.batch_size, loader.num_workers)


def candidates(folder: Folder, processes: int = 1) -> list[Plan]:
    """Plans for a folder, the cheapest first."""
    sides = [side for side in SIDES if side <= folder.side] or [SIDES[-1]]
    patch = 16
    if folder.side < SIDES[-1]:  # fewer pixels for a patch, so that there are enough patches
        patch, sides = 8, [max(SMALLEST, int(folder.side) // 8 * 8)]
    largest = next((trunk for number, trunk in LARGEST if folder.num_images < number), 'base')
    trunks = list(TRUNKS)[: list(TRUNKS).index(largest) + 1]
    has_gpu = torch.cuda.is_available()
    cores = len(os.sched_getaffinity(0)) // processes
    # Half of the images at most, so that steps differ.
    batch = min(128 if has_gpu else 64, 2 ** ((folder.num_images // processes // 2).bit_length() - 1))
    # Without a GPU the model takes the cores.
    workers = max(1, min(8, cores - 1) if has_gpu else cores // 4)
    plans = [Plan(trunk, TRUNKS[trunk][:3], side, patch, batch, workers) for trunk in trunks for side in sides]
    return sorted(plans, key=lambda plan: plan.cost)


def choose(plans: list[Plan], measured: dict[Plan, float], seconds: float) -> Plan:
    """The most expensive plan with STEPS steps, or the cheapest; steps that are not measured are scaled by the cost.

    Args:
        plans: the cheapest first.
        measured: seconds of a step, infinite if memory was too small.
        seconds: of the pre-training.
    """
    known = max((plan for plan in measured if measured[plan] < float('inf')), key=lambda plan: plan.cost, default=None)
    chosen = plans[0]
    for plan in plans:
        too_large = any(step == float('inf') and plan.cost >= other.cost for other, step in measured.items())
        step = measured.get(plan, measured[known] * plan.cost / known.cost if known else float('inf'))
        if not too_large and seconds / step >= STEPS:
            chosen = plan
    return chosen
