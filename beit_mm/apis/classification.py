"""Classes of images."""

import torch
from mmengine.dataset import default_collate
from mmengine.model import BaseModel
from mmpretrain.models import BaseClassifier

from .models import Model
from .predicting import collect, evaluation_pipeline, Predictions, ready_model, Results
from .sources import Images


def classify(
    model: Model,
    images: Images,
    weights: str | None = None,
    batch_size: int = 32,
    top_k: int = 5,
    device: str | torch.device | None = None,
    options: dict | None = None,
    progress: bool = True,
) -> Results:
    """Classes of images, as the model's config evaluates them.

    Args:
        model: a classifier: a name of `list_models()`, the path of a config, a Config, or a loaded model.
        images: a file, a folder, an array uint8 in BGR, a picture of Pillow's, or a list of these, see find_images.
        weights: a checkpoint in any layout; with a loaded model, none.
        batch_size: images given to the model at once, at most.
        top_k: how many of the best classes are given; all, if there are fewer.
        device: where it computes; None for the GPU if there is one, else the CPU.
        options: keys of the config to override, such as {'model.head.num_classes': 10}.
        progress: whether a bar shows how far it is, on standard error, if that is a terminal.

    Returns:
        Per image that could be read a dict, with MMPretrain's keys `pred_scores` (float32, (num_classes,), sum 1),
        `pred_label`, `pred_score` and `pred_class` of the best class (None if classes have no names), and `image` (its
        name), `top_labels`, `top_scores` and `top_classes`, lists of the top_k, the best first. Others are in
        `skipped`, with the reason by the name.

    Raises:
        FileNotFoundError: If there is no such config, checkpoint or image.
        BadImage: If the only image cannot be read.
        ValueError: If none of several can be read, or the model does not classify.
    """
    loaded = ready_model(model, weights, device, options)
    return collect(classify_each(loaded, images, batch_size, top_k, progress))


def classify_each(
    model: BaseModel, images: Images, batch_size: int = 32, top_k: int = 5, progress: bool = True
) -> Predictions:
    """The same one by one, by a loaded model, for more images than memory holds; see Predictions."""
    if not isinstance(model, BaseClassifier):
        raise ValueError(f'classify needs a model that classifies, got {type(model).__name__}')
    if top_k < 1:
        raise ValueError(f'top_k must be at least 1, got {top_k}')
    classes = (getattr(model, 'dataset_meta', None) or {}).get('classes')

    @torch.no_grad()
    def compute(samples: list[dict]) -> list[dict]:
        return [_describe(sample.pred_score, classes, top_k) for sample in model.test_step(default_collate(samples))]

    return Predictions(images, evaluation_pipeline(model), compute, batch_size, progress)


def _describe(scores: torch.Tensor, classes: list[str] | None, top_k: int) -> dict:
    scores = scores.float().cpu()
    top_scores, top_labels = (part.tolist() for part in scores.topk(min(top_k, len(scores))))
    top_classes = [classes[label] if classes else None for label in top_labels]
    return dict(
        pred_scores=scores.numpy(),
        pred_label=top_labels[0],
        pred_score=top_scores[0],
        pred_class=top_classes[0],
        top_labels=top_labels,
        top_scores=top_scores,
        top_classes=top_classes,
    )
