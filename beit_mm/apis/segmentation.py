"""Label maps of images."""

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.model import BaseModel
from mmseg.models import BaseSegmentor

from .models import Model
from .predicting import collect, evaluation_pipeline, Predictions, ready_model, Results
from .sources import Images


def segment(
    model: Model,
    images: Images,
    weights: str | None = None,
    batch_size: int = 1,
    device: str | torch.device | None = None,
    options: dict | None = None,
    progress: bool = True,
) -> Results:
    """A class for every pixel of images, as the model's config evaluates them.

    Args:
        model: a segmentor: a name of `list_models()`, the path of a config, a Config, or a loaded model.
        images, weights, device, options, progress: as of classify.
        batch_size: images given to the model at once, at most, which must follow each other and have one size after
            the config's resizing. Images in overlapping windows fill a GPU one by one.

    Returns:
        Per image that could be read a dict of `image` (its name), `labels`, (H, W) of the image's own size, uint8, or
        uint16 for more than 256 classes, and `classes`, the names of the labels from 0 (None if they have none).
        Others are in `skipped`, with the reason by the name.

    Raises:
        FileNotFoundError: If there is no such config, checkpoint or image.
        BadImage: If the only image cannot be read.
        ValueError: If none of several can be read, or the model does not segment.
    """
    loaded = ready_model(model, weights, device, options)
    return collect(segment_each(loaded, images, batch_size, progress))


def segment_each(model: BaseModel, images: Images, batch_size: int = 1, progress: bool = True) -> Predictions:
    """The same one by one, by a loaded model, for more images than memory holds; see Predictions."""
    if not isinstance(model, BaseSegmentor):
        raise ValueError(f'segment needs a model that segments, got {type(model).__name__}')
    classes = (getattr(model, 'dataset_meta', None) or {}).get('classes')
    dtype = np.uint8 if getattr(model, 'num_classes', 257) <= 256 else np.uint16

    @torch.no_grad()
    def compute(samples: list[dict]) -> list[dict]:
        predicted = model.test_step(pseudo_collate(samples))
        return [
            dict(labels=sample.pred_sem_seg.data[0].cpu().numpy().astype(dtype), classes=classes)
            for sample in predicted
        ]

    return Predictions(images, evaluation_pipeline(model), compute, batch_size, progress)
