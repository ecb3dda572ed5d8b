"""Single images for inference: read from wherever they are, brought to a size, normalised as a model wants them."""

from pathlib import Path
from typing import NamedTuple

import mmcv
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import nn, Tensor

from beit_mm.datasets.transforms.loading import LoadImage, SIMPLEJPEG

from .bad_images import BadImage

MAX_RATIO = 4
Source = str | Path | np.ndarray | Image.Image


class InputFormat(NamedTuple):
    """How a model wants its images: channels in this order ('RGB' or 'BGR'), 0 to 255, less mean, over std."""

    channel_order: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def read_image(source: Source) -> np.ndarray:
    """An image as the hosts' pipelines have it, uint8 (H, W, 3) in BGR.

    Args:
        source: a file or address, an array uint8 (H, W, 3) in BGR or (H, W) in grey, or a picture of Pillow's.

    Raises:
        BadImage: If it cannot be read as an image; names the file, or gives the array's shape and dtype.
    """
    if isinstance(source, Image.Image):
        return _read_picture(source)
    if not isinstance(source, np.ndarray):
        return LoadImage(imdecode_backend=SIMPLEJPEG)(dict(img_path=str(source)))['img']
    if source.dtype == np.uint8 and source.ndim == 2 and source.size:
        return np.repeat(source[..., None], 3, axis=2)
    if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or not source.size:
        raise BadImage('an array', f'it must be uint8 (H, W, 3), got {source.dtype} {source.shape}')
    return source


def _read_picture(picture: Image.Image) -> np.ndarray:
    """Upright by its EXIF data, and of 16 bits the upper eight, as LoadImage reads files."""
    try:
        upright = ImageOps.exif_transpose(picture)
        if upright.mode[0] in 'IF':
            upright = Image.fromarray(_upper_eight_bits(upright))
        pixels = np.asarray(upright.convert('RGB'))
    except Exception as error:  # Pillow reads the file only now; every decoder has its own kinds
        name = str(getattr(picture, 'filename', '') or 'a picture')
        raise BadImage(name, str(error) or type(error).__name__) from error
    return np.ascontiguousarray(pixels[..., ::-1])


def _upper_eight_bits(picture: Image.Image) -> np.ndarray:
    """uint8 (H, W) of a picture of mode I;16, or I, as older Pillow opens 16 bits."""
    values = np.asarray(picture)
    if picture.mode == 'F' or not 0 <= values.min() <= values.max() < 2**16:
        raise ValueError(
            f'it must have 8 or 16 bits per channel, got mode {picture.mode} with values '
            f'{values.min()} to {values.max()}'
        )
    return (values >> 8).astype(np.uint8)


def sides_for(size: tuple[int, int], short_side: int, multiple: int) -> tuple[int, int]:
    """Height and width of about the same ratio whose shorter is short_side, both rounded to a multiple, at least one.

    The longer is at most MAX_RATIO times the shorter, so the ratio of a banner changes: attention is quadratic in it.
    """
    scale = short_side / min(size)
    height, width = (max(round(min(side * scale, MAX_RATIO * short_side) / multiple), 1) * multiple for side in size)
    return height, width


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image (h, w, 3) at another size (H, W), bicubic as in the recipes' evaluation."""
    return mmcv.imresize(image, size[::-1], interpolation='bicubic', backend='pillow')


def input_format(model: nn.Module) -> InputFormat:
    """What a model's data preprocessor makes of the BGR images of a pipeline."""
    preprocessor = model.data_preprocessor
    # Of classifiers and our two views; of segmentors and MMPretrain's self-supervised models.
    converts = any(getattr(preprocessor, name, False) for name in ('to_rgb', '_channel_conversion'))
    mean, std = (getattr(preprocessor, name, None) for name in ('mean', 'std'))
    return InputFormat('RGB' if converts else 'BGR', _numbers(mean, 0.0), _numbers(std, 1.0))


def _numbers(buffer, default: float) -> tuple[float, ...]:
    return (default,) * 3 if buffer is None else tuple(buffer.flatten().tolist())


def normalise(image: np.ndarray, wanted: InputFormat) -> Tensor:
    """An image uint8 (H, W, 3) in BGR as a model wants it: float32 (1, 3, H, W)."""
    if wanted.channel_order == 'RGB':
        image = image[..., ::-1]
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in wanted[1:])
    return (pixels - mean) / std
