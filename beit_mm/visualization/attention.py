"""Where the trunk's self-attention looks: of all tokens, and of points of an image (arXiv 2106.08254, figure 2)."""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

import torch
from torch import nn, Tensor

from beit_mm.datasets.images import input_format, normalise, read_image, resize_image, sides_for, Source
from beit_mm.models import BEiT
from beit_mm.models.backbones.beit import resolve_blocks
from beit_mm.models.backbones.layers import patch_grid
from beit_mm.models.evaluating import evaluating

Point = tuple[int, int]


@torch.no_grad()
def attention_maps(
    trunk: BEiT, images: Tensor, blocks: Sequence[int], mask: Tensor | None = None, queries: Tensor | None = None
) -> dict[int, Tensor]:
    """Attention probabilities of chosen blocks, from one forward of the trunk in evaluation mode.

    Args:
        trunk: of any out_type and kind of positions; its mode is left as it was found.
        images, mask: as for `BEiT.forward`, on the trunk's device.
        blocks: counted from 0, or back from -1.
        queries: int64 (Q,), the tokens whose attention is wanted: 0 is the class token, 1 + row * w + column a patch;
            None for all.

    Returns:
        For every block, counted from 0 and in the order asked for, float32 or wider (B, num_heads, Q, 1 + h * w): of
        the queries over all tokens, the class token first; each row sums to 1.

    Raises:
        ValueError: If there is no such block, or the images or the mask do not fit the trunk.
    """
    maps: dict[int, Tensor] = {}

    def keep(index: int, attention: nn.Module, args: tuple, kwargs: dict) -> None:
        maps[index] = attention.probabilities(*args, **kwargs, queries=queries)

    chosen = list(dict.fromkeys(resolve_blocks(blocks, len(trunk.blocks))))
    with ExitStack() as stack:
        stack.enter_context(evaluating(trunk))
        # A compiled block may not see hooks that came after its compilation.
        stack.enter_context(torch.compiler.set_stance('force_eager'))
        for index in chosen:
            hook = trunk.blocks[index].attn.register_forward_pre_hook(partial(keep, index), with_kwargs=True)
            stack.callback(hook.remove)
        trunk(images, mask)
    return {index: maps[index] for index in chosen}


def point_attention_maps(
    model: nn.Module,
    image: Source,
    points: Sequence[Point],
    blocks: Sequence[int] = (-1,),
    size: tuple[int, int] | None = None,
) -> dict[int, Tensor]:
    """Attention of the patches that hold chosen points of one image, over all patches.

    Args:
        model: as `load_model` gives it, a BEiT in it as `backbone`.
        image: whatever `read_image` reads.
        points: (x, y), whole pixels of the image as it is in the file, from its top left corner.
        blocks: counted from 0, or back from -1.
        size: (H, W) that the trunk sees, multiples of the patch size; None for the image's own ratio, at most 4 to 1,
            with the shorter side as in training, both sides rounded to patches.

    Returns:
        For every block, counted from 0, float32 or wider (num_points, num_heads, h, w) on the model's device, h and w
        in patches. The class token's column is left out and nothing is scaled up for it: what a map lacks to a sum of
        1 is the attention to the class token.

    Raises:
        BadImage: If the image cannot be read.
        ValueError: If a point lies outside of the image, there is no such block, the size does not fit, or the model
            has no BEiT.
    """
    trunk = getattr(model, 'backbone', None)
    if not isinstance(trunk, BEiT):
        raise ValueError(
            f'attention maps need a model with a BEiT as backbone, got {type(model).__name__}'
            f'{"" if trunk is None else f" with {type(trunk).__name__}"}'
        )
    image = read_image(image)
    patch = trunk.patch_embed.patch_size
    size = size or sides_for(image.shape[:2], patch * min(trunk.grid), patch)
    grid = patch_grid(size, patch)
    queries = torch.tensor([_token_of(point, image.shape[:2], grid) for point in points], dtype=torch.long)
    pixels = normalise(resize_image(image, size), input_format(model)).to(trunk.cls_token)
    maps = attention_maps(trunk, pixels, blocks, queries=queries.to(pixels.device))
    return {block: rows[0, :, :, 1:].transpose(0, 1).unflatten(2, grid) for block, rows in maps.items()}


def grid_points(size: tuple[int, int], rows: int, columns: int) -> list[Point]:
    """Points (x, y) in the middle of the cells of a grid over an image of size (H, W), row by row.

    Raises:
        ValueError: If there are not at least one row and one column.
    """
    if rows < 1 or columns < 1:
        raise ValueError(f'a grid of points must have at least one row and one column, got {rows} x {columns}')
    return [
        ((2 * column + 1) * size[1] // (2 * columns), (2 * row + 1) * size[0] // (2 * rows))
        for row in range(rows)
        for column in range(columns)
    ]


def _token_of(point: Point, size: tuple[int, int], grid: tuple[int, int]) -> int:
    """The token of the patch that holds the centre of pixel (x, y), when an image of size (H, W) is cut into a grid."""
    (x, y), (height, width) = point, size
    if not (0 <= x < width and 0 <= y < height):
        raise ValueError(
            f'a point must lie in the image, x from 0 to {width - 1} and y from 0 to {height - 1}, got {x},{y}'
        )
    row, column = int((y + 0.5) * grid[0] / height), int((x + 0.5) * grid[1] / width)
    return 1 + row * grid[1] + column
