"""Single images, outside of data sets: read, resized and normalized."""

import math
from pathlib import Path
from typing import NamedTuple

import mmcv
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import nn, Tensor
from torch.nn import functional as F

from beit_mm.config.parts import innermost_dataset
from beit_mm.datasets.transforms.loading import LoadAsStored, LoadImage, SIMPLEJPEG

from .bad_images import BadImage, is_bad_file
from .listing import IMAGE_SUFFIXES

MAX_RATIO = 4  # of the longer side to the shorter; attention is quadratic in the number of patches
Source = str | Path | np.ndarray | Image.Image

try:
    F.interpolate(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), size=4, mode='lanczos', antialias=True)
    TORCH_HAS_LANCZOS = True
except (ValueError, NotImplementedError):  # older releases
    TORCH_HAS_LANCZOS = False


def loader_for(channels: int, color_type: str | None = None, **options) -> LoadImage:
    """The step that reads files for a model with this number of input channels; MMCV's color_type overrides them."""
    by_channels = {1: 'grayscale', 3: 'color'}.get(channels, 'unchanged')
    return LoadImage(imdecode_backend=SIMPLEJPEG, color_type=color_type or by_channels, **options)


LOAD_COLOR = loader_for(3)


def find_loader(model: nn.Module, channels: int) -> LoadImage:
    """How files are read for a model: with the bands and bits of the images that its config names."""
    pipeline = _own_dataset(model).get('pipeline') or ()
    steps = [step for step in pipeline if 'color_type' in step]
    kept = {name: step[name] for step in steps[:1] for name in ('color_type', 'value_range') if name in step}
    return loader_for(channels, **kept)


def find_suffixes(model: nn.Module) -> tuple[str, ...]:
    """Ends of the names of images in folders: the usual ones, and .npy if the data of the model's config are such."""
    dataset = _own_dataset(model)
    own = dataset.get('extensions') or dataset.get('img_suffix') or ()
    return (*IMAGE_SUFFIXES, '.npy') if '.npy' in own else IMAGE_SUFFIXES


def _own_dataset(model: nn.Module) -> dict:
    """The first data set that the config of a model names: of a test, a validation or a training."""
    cfg = getattr(model, 'cfg', None) or {}
    loaders = (cfg.get(f'{split}_dataloader') for split in ('test', 'val', 'train'))
    return next((dataset for loader in loaders if (dataset := innermost_dataset(loader))), {})


class InputFormat(NamedTuple):
    """How a model takes images: (pixels - mean) / std of pixels as they are read, such as 0 to 255. channel_order is
    'RGB' or 'BGR', and '' unless there are three bands.
    """

    channel_order: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def read_image(source: Source, load: LoadImage = LOAD_COLOR, channels: int = 3) -> np.ndarray:
    """Read an image as the hosts' pipelines do.

    Args:
        source: a file, an array (H, W, channels) in BGR, or with (H, W) in gray, or a Pillow image.
        load: reads files. If its color_type is 'color', images are uint8 (H, W, 3) in BGR.
        channels: bands that the image must have; of one band it is (H, W).

    Raises:
        BadImage: If it cannot be read. The message names the file, or the array's shape and dtype.
    """
    if load.color_type == 'color':
        return _read_color(source, load)
    if isinstance(source, Image.Image):
        image = np.asarray(ImageOps.exif_transpose(source))
        image = image[..., [2, 1, 0, *range(3, image.shape[2])]] if image.shape[2:] > (2,) else image
    else:
        image = source if isinstance(source, np.ndarray) else load(dict(img_path=str(source)))['img']
    image = image if load.value_range is None else load.fit_values(image)
    image = image[..., 0] if image.shape[2:] == (1,) else image
    if image.ndim not in (2, 3) or image.dtype not in (np.uint8, np.uint16, np.float32) or not image.size:
        raise BadImage(_name(source), f'it must be (H, W, {channels}), got {image.dtype} {image.shape}')
    bands = math.prod(image.shape[2:])
    if bands != channels:
        raise BadImage(_name(source), f'it must have the {channels} bands that the model takes, got {bands}')
    return image


def read_any(image: Source) -> np.ndarray:
    """Pixels of an image of any number of bands."""
    if isinstance(image, np.ndarray):
        return image
    try:
        return read_image(image)
    except BadImage:
        if not isinstance(image, (str, Path)):
            raise
        return LoadAsStored()(dict(img_path=str(image)))['img']


def _name(source: Source) -> str:
    if isinstance(source, (str, Path)):
        return str(source)
    return 'an array' if isinstance(source, np.ndarray) else str(getattr(source, 'filename', '') or 'a Pillow image')


def _read_color(source: Source, load: LoadImage) -> np.ndarray:
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.shape[2:] not in ((), (3,)) or source.ndim < 2 or not source.size:
            raise BadImage('an array', f'it must be uint8 (H, W, 3), got {source.dtype} {source.shape}')
        return source if source.ndim == 3 else np.repeat(source[..., None], 3, axis=2)
    if not isinstance(source, Image.Image):
        return load(dict(img_path=str(source)))['img']
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
        raise BadImage(_name(source), str(error) or type(error).__name__) from error


def size_for(size: tuple[int, int], short_side: int, multiple: int) -> tuple[int, int]:
    """The (H, W) to resize an image to: the shorter side becomes `short_side`, and the longer one keeps the ratio up to
    MAX_RATIO to 1. Both are rounded to multiples of `multiple`.
    """
    scale = short_side / min(size)
    height, width = (max(round(min(side * scale, MAX_RATIO * short_side) / multiple), 1) * multiple for side in size)
    return height, width


def resize_image(image: np.ndarray, size: tuple[int, int], interpolation: str = 'bicubic') -> np.ndarray:
    """Resize an image (h, w, channels) or (h, w) to (H, W), with antialiasing as in the recipes' evaluation."""
    if resize_backend(image) == 'pillow':
        return mmcv.imresize(image, size[::-1], interpolation=interpolation, backend='pillow')
    return resize_bands(image, size, interpolation)


def resize_bands(image: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """An image (H, W, C) or (H, W) of any dtype, resized band by band; OpenCV has no antialiasing."""
    mode = 'bicubic' if interpolation == 'lanczos' and not TORCH_HAS_LANCZOS else interpolation
    bands = torch.from_numpy(np.ascontiguousarray(image)).float().view(*image.shape[:2], -1).permute(2, 0, 1)[None]
    resized = F.interpolate(bands, size=tuple(size), mode=mode, antialias=True)[0].permute(1, 2, 0).numpy()
    if np.issubdtype(image.dtype, np.integer):
        values = np.iinfo(image.dtype)
        resized = resized.round().clip(values.min, values.max)
    return np.ascontiguousarray(resized.astype(image.dtype)).reshape(*size, *image.shape[2:])


def resize_backend(image: np.ndarray) -> str:
    """'pillow' for 8-bit images of one or three bands, as in the recipes; else 'torch', as Pillow takes a
    fourth band for transparency.
    """
    return 'pillow' if image.dtype == np.uint8 and image.shape[2:] in ((), (3,)) else 'torch'


def count_channels(model: nn.Module) -> int:
    """Channels of the images that a model takes: those of its first convolution, if it does not say."""
    if isinstance(channels := getattr(model, 'in_channels', None), int):
        return channels
    convolutions = (module for module in getattr(model, 'backbone', model).modules() if isinstance(module, nn.Conv2d))
    first = next(convolutions, None)
    return 3 if first is None else first.in_channels


def input_format(model: nn.Module) -> InputFormat:
    """What a model's data preprocessor does to the images of a pipeline, in BGR if they have three bands."""
    preprocessor = model.data_preprocessor
    # Preprocessors of classifiers and of two views have `to_rgb`, all others of the hosts `_channel_conversion`.
    converts = any(getattr(preprocessor, name, False) for name in ('to_rgb', '_channel_conversion'))
    mean, std = (getattr(preprocessor, name, None) for name in ('mean', 'std'))
    channels = count_channels(model)
    return InputFormat(
        ('RGB' if converts else 'BGR') if channels == 3 else '',
        (0.0,) * channels if mean is None else tuple(mean.flatten().tolist()),
        (1.0,) * channels if std is None else tuple(std.flatten().tolist()),
    )


def normalize(images: Tensor, wanted: InputFormat) -> Tensor:
    """Images (B, channels, H, W) as they are read, three channels in BGR, as a model takes them: float32."""
    images = (images.flip(1) if wanted.channel_order == 'RGB' else images).float()
    mean, std = (images.new_tensor(values).view(-1, 1, 1) for values in (wanted.mean, wanted.std))
    return (images - mean) / std
