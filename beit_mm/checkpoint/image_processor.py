"""How transformers prepares the images of a converted model."""

import json
import math
from contextlib import suppress
from typing import Any

import numpy as np

DEFAULT = dict(
    image_processor_type='BeitImageProcessor',
    do_resize=True,
    resample=2,
    do_center_crop=False,
    do_rescale=True,
    do_normalize=True,
    do_reduce_labels=False,
)


def image_processor(config: dict, meta: object) -> tuple[dict, str]:
    """The content of preprocessor_config.json, and whose mean and standard deviation it has.

    Args:
        config: transformers' of the model.
        meta: meta data of the checkpoint; one of a run holds the settings of its data preprocessor, in pixels of RGB.
    """
    channels = config['num_channels']
    settings: Any = meta.get('beit_mm_settings') if isinstance(meta, dict) else None
    mean, std, is_rgb = None, None, False
    with suppress(ValueError, TypeError, AttributeError, RecursionError, OverflowError):
        mean, std = (_numbers(settings.get(f'model.data_preprocessor.{name}'), channels) for name in ('mean', 'std'))
        is_rgb = 'True' in (settings.get(f'model.data_preprocessor.{name}') for name in ('to_rgb', 'bgr_to_rgb'))
    whose = 'of the run'
    if mean is None or std is None or not (is_rgb and all(std)):
        mean = std = [0.5] * channels
        whose = 'of the released models, 0.5; change them if yours differ'
    size = {side: int(np.max(config['image_size'])) for side in ('height', 'width')}
    return dict(DEFAULT, size=size, crop_size=size, image_mean=mean, image_std=std), whose


def _numbers(text: str, count: int) -> list[float] | None:
    """So many pixel values as shares of 255, of the text of a list; None for anything else."""
    numbers = [float(number) / 255 for number in json.loads(text)]
    return numbers if len(numbers) == count and all(0 <= number < math.inf for number in numbers) else None
