"""The benchmark's sections, and the sizes they have by default."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from limits import compare_limits
from loading import compare_loading
from measuring import Row
from pretraining import compare_pretraining
from scaling import compare_scaling
from segmentation import compare_segmentation
from steps import device
from trunks import compare_trunks


@dataclass
class Sizes:
    """What is measured; what is None becomes this machine's default: base on a GPU, on a CPU half as wide.

    Args:
        rounds: how often each candidate is timed.
        batch: images of a step; segmentation takes 2, scaling starts at its own.
        width, depth: of the trunk; a head is 64 wide.
        size: side of an image; segmentation's window, which has a default of its own, if given.
    """

    rounds: int = 3
    batch: int | None = None
    width: int | None = None
    depth: int = 12
    size: int | None = None

    def __post_init__(self):
        on_gpu = device() == 'cuda'
        self.window = self.size or (640 if on_gpu else 512)
        self.size = self.size or 224
        self.scaled_width = self.width or (768 if on_gpu else 192)
        self.scaled_batch = self.batch
        self.batch = self.batch or (128 if on_gpu else 4)
        self.width = self.width or (768 if on_gpu else 384)


def _loading(sizes: Sizes) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        return compare_loading(Path(folder), sizes.rounds)


SECTIONS: dict[str, Callable[[Sizes], list[Row]]] = {
    'limits': lambda s: compare_limits(s.rounds),
    'loading': _loading,
    # A tokenizer as much narrower than OpenAI's (256) as the trunk is than base.
    'pretraining': lambda s: compare_pretraining(s.rounds, s.batch, s.depth, s.width, max(s.width // 3, 8)),
    'trunks': lambda s: compare_trunks(s.rounds, s.batch, s.size, s.depth, s.width),
    'segmentation': lambda s: compare_segmentation(s.rounds, s.window, s.depth, s.width),
    'scaling': lambda s: compare_scaling(s.rounds, s.scaled_batch, s.scaled_width, s.depth),
}
