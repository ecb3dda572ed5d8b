"""How much of its vocabulary a tokenizer uses."""

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from beit_mm.models.tokenizers.discrete_vae import codebook_use


def describe_codebook(tokens: Tensor, vocab_size: int) -> tuple[np.ndarray, dict[str, float]]:
    """A chart and two numbers of the codebook's use.

    Args:
        tokens: of a batch of images, int64 (B, h, w).
        vocab_size: V, the number of visual tokens.

    Returns:
        The share of every token, the most frequent first, uint8 RGB (H, W, 3), and `perplexity` (1 to V) and
        `used_codes` (0 to 1, of the vocabulary), which grow with the number of images.
    """
    counts = torch.bincount(tokens.flatten(), minlength=vocab_size)
    numbers = {name: value.item() for name, value in codebook_use(counts).items()}
    return _draw(counts.cpu().numpy(), len(tokens), numbers), numbers


def _draw(counts: np.ndarray, num_images: int, numbers: dict[str, float]) -> np.ndarray:
    shares = np.sort(counts[counts > 0])[::-1] / counts.sum()
    figure = Figure(figsize=(7, 3.5), dpi=100)  # not pyplot, which keeps figures
    figure.subplots_adjust(left=0.1, right=0.98, bottom=0.15, top=0.9)  # a layout engine would draw it twice
    axes = figure.add_subplot()
    axes.stairs(shares, np.arange(len(shares) + 1) + 0.5, fill=True, baseline=shares.min() / 2)
    axes.axhline(1 / len(counts), color='black', linestyle='--', linewidth=1, label='all tokens equally often')
    axes.set(
        yscale='log',
        xlim=(0.5, len(counts) + 0.5),
        xlabel='visual tokens, the most frequent first',
        ylabel='share of all patches',
    )
    axes.set_title(
        f'{len(shares):,} of {len(counts):,} visual tokens used by {num_images} images, '
        f'perplexity {numbers["perplexity"]:,.1f}',
        fontsize=11,
    )
    axes.legend(loc='upper right')
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
