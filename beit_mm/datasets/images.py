"""Single images, outside of data sets: read, resized and normalized."""

from pathlib import Path
from typing import NamedTuple

import mmcv
import numpy as np
from PIL import Image, ImageOps
from torch import nn, Tensor

from beit_mm.datasets.transforms.loading import LoadImage, SIMPLEJPEG

from .bad_images import BadImage, is_bad_file

MAX_RATIO = 4  # of the longer side to the shorter; attention is quadratic in the number of patches
Source = str | Path | np.ndarray | Image.Image


class InputFormat(NamedTuple):
    """How a model takes images: channels in the order 'RGB' or 'BGR', pixels 0 to 255, minus mean, divided by std."""

    channel_order: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def read_image(source: Source) -> np.ndarray:
    """Read an image as the hosts' pipelines do: uint8 (H, W, 3) in BGR.

    Args:
        source: a file, an array uint8 (H, W, 3) in BGR or (H, W) in gray, or a Pillow image.

    Raises:
        BadImage: If it cannot be read. The message names the file, or the array's shape and dtype.
    """
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.shape[2:] not in ((), (3,)) or source.ndim < 2 or not source.size:
            raise BadImage('an array', f'it must be uint8 (H, W, 3), got {source.dtype} {source.shape}')
        return source if source.ndim == 3 else np.repeat(source[..., None], 3, axis=2)
    if not isinstance(source, Image.Image):
        return LoadImage(imdecode_backend=SIMPLEJPEG)(dict(img_path=str(source)))['img']
    try:  # like LoadImage: upright by EXIF data, the upper eight of 16 bits
        upright = ImageOps.exif_transpose(source)
        if upright.mode[0] in 'IF':  # convert() would clip 16 bits
            values = np.asarray(upright)
            if upright.mode == 'F' or not 0 <= values.min() <= values.max() < 2**16:
                raise ValueError(f'it must be whole numbers of 8 or 16 bits, got mode {upright.mode}')
            upright = Image.fromarray((values >> 8).astype(np.uint8))
        return np.asarray(upright.convert('RGB'))[..., ::-1].copy()
    except Exception as error:  # Pillow decodes only now, and every decoder raises its own types
        if not is_bad_file(error):
            raise
        name = str(getattr(source, 'filename', '') or 'a Pillow image')
        raise BadImage(name, str(error) or type(error).__name__) from error


def size_for(size: tuple[int, int], short_side: int, multiple: int) -> tuple[int, int]:
    """The (H, W) to resize an image to: `short_side` and the ratio, at most MAX_RATIO to 1; multiples of a number."""
    scale = short_side / min(size)
    height, width = (max(round(min(side * scale, MAX_RATIO * short_side) / multiple), 1) * multiple for side in size)
    return height, width


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize an image (h, w, 3) to (H, W), bicubic as in the recipes' evaluation."""
    return mmcv.imresize(image, size[::-1], interpolation='bicubic', backend='pillow')


def input_format(model: nn.Module) -> InputFormat:
    """What a model's data preprocessor does to the BGR images of a pipeline."""
    preprocessor = model.data_preprocessor
    # The first name is that of classifiers and of our two views, the second that of all other models of the hosts.
    converts = any(getattr(preprocessor, name, False) for name in ('to_rgb', '_channel_conversion'))
    mean, std = (getattr(preprocessor, name, None) for name in ('mean', 'std'))
    return InputFormat(
        'RGB' if converts else 'BGR',
        (0.0,) * 3 if mean is None else tuple(mean.flatten().tolist()),
        (1.0,) * 3 if std is None else tuple(std.flatten().tolist()),
    )


def normalize(images: Tensor, wanted: InputFormat) -> Tensor:
    """Images (B, 3, H, W) in BGR, pixels 0 to 255, as a model takes them: float32 of the same shape."""
    images = (images.flip(1) if wanted.channel_order == 'RGB' else images).float()
    mean, std = (images.new_tensor(values).view(-1, 1, 1) for values in (wanted.mean, wanted.std))
    return (images - mean) / std
