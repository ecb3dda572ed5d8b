"""The loop of inference: threads read and prepare images beside the model, which takes them in batches."""

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from mmcv.transforms import LoadAnnotations, LoadImageFromFile
from mmengine.dataset import Compose
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope, TRANSFORMS
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from torch import nn

from beit_mm.config.parts import has_pretrained, innermost_dataset
from beit_mm.datasets.bad_images import BadImage
from beit_mm.datasets.images import read_image
from beit_mm.engine.runners.memory import describe_shortage, OutOfMemory

from .models import load_model, Model, start_of_whole
from .sources import find_images, Images, NamedImage

NUM_THREADS = min(os.cpu_count() or 1, 8)
NUM_SHOWN = 3
Prepare = Callable[[np.ndarray, str], dict]
Compute = Callable[[list[dict]], list[dict]]


class Results(list):
    """Predictions in the order of the images, one dict each.

    Attributes:
        skipped: the reason for every image that could not be read, by its name.
    """

    skipped: dict[str, str]


class Predictions:
    """Predictions as they come, for more images than memory holds: at most two batches are read before they are asked
    for. Iterating gives (image, prediction) in the order of the images; those that cannot be read are left out.

    Args:
        images: see find_images.
        prepare: from an image, uint8 (H, W, 3) in BGR, and its name to a dict with the tensor `inputs`; in threads.
        compute: from a list of such dicts, with `inputs` of one shape, to a prediction of each.
        batch_size: images given to the model at once, at most; a change of shape ends a batch.
        progress: whether a bar shows how far it is, on standard error, if that is a terminal.

    Attributes:
        images: List[NamedImage], what is gone through.
        skipped: the reason for every image that could not be read so far, by its name.

    Raises:
        BadImage: If the only image cannot be read.
        ValueError: If none of several can be read, batch_size is not positive, or the model refuses an image.
        OutOfMemory: If a batch is too much for the device.
    """

    def __init__(self, images: Images, prepare: Prepare, compute: Compute, batch_size: int, progress: bool):
        if batch_size < 1:
            raise ValueError(f'batch_size must be at least 1, got {batch_size}')
        self.images = find_images(images)
        self.skipped: dict[str, str] = {}
        self._prepare, self._compute = prepare, compute
        self._batch_size, self._progress = batch_size, progress

    def __len__(self) -> int:
        """The number of images, with those that will be skipped."""
        return len(self.images)

    def __iter__(self) -> Iterator[tuple[NamedImage, dict]]:
        self.skipped.clear()
        console = Console(stderr=True)
        shown = self._progress and len(self) > 1 and console.is_terminal
        columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        done = 0
        with Progress(*columns, console=console, disable=not shown, redirect_stdout=False) as bar:
            task = bar.add_task('', total=len(self))
            for images, samples in self._batches():
                yield from zip(images, self._predict(images, samples))
                done += len(images)
                bar.update(task, completed=done + len(self.skipped))
        if not done:
            raise ValueError(f'none of {len(self)} images could be read: {_list_skipped(self.skipped)}')

    def _predict(self, images: list[NamedImage], samples: list[dict]) -> list[dict]:
        try:
            return [dict(image=image.name, **prediction) for image, prediction in zip(images, self._compute(samples))]
        except ValueError as error:  # of a model, which knows no names
            raise ValueError(f'{images[0].name}: {error}') from error
        except RuntimeError as error:
            told = describe_shortage(error)
            if told is None:
                raise
            shape = tuple(samples[0]['inputs'].shape)
            raise OutOfMemory(
                f'{told}; {len(images)} images of {shape} were too many, try a smaller batch_size'
                if len(images) > 1
                else f'{told}; one image of {shape}, {images[0].name}, was too much, try a smaller one'
            ) from error

    def _batches(self) -> Iterator[tuple[list[NamedImage], list[dict]]]:
        images: list[NamedImage] = []
        samples: list[dict] = []
        for image, sample in self._read_ahead():
            if samples and (len(samples) == self._batch_size or sample['inputs'].shape != samples[0]['inputs'].shape):
                yield images, samples
                images, samples = [], []
            images.append(image)
            samples.append(sample)
        if samples:
            yield images, samples

    def _read_ahead(self) -> Iterator[tuple[NamedImage, dict]]:
        pool, waiting = ThreadPoolExecutor(NUM_THREADS), deque()
        try:
            for image in self.images:
                waiting.append((image, pool.submit(self._read, image)))
                if len(waiting) > self._batch_size:
                    yield from self._take(*waiting.popleft())
            while waiting:
                yield from self._take(*waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _read(self, image: NamedImage) -> dict:
        return self._prepare(read_image(image.source), image.name)

    def _take(self, image: NamedImage, reading: Future) -> Iterator[tuple[NamedImage, dict]]:
        """The image that a thread has read, or none if it is bad."""
        try:
            yield image, reading.result()
        except BadImage as error:
            if len(self) == 1:
                raise
            self.skipped[image.name] = error.reason


def collect(predictions: Predictions) -> Results:
    """All predictions; a line in the log names what was skipped."""
    results = Results(prediction for _, prediction in predictions)
    results.skipped = predictions.skipped
    if results.skipped:
        print_log(describe_skipped(predictions), logger='current', level=logging.WARNING)
    return results


def describe_skipped(predictions: Predictions) -> str:
    """Such as `3 of 120 images could not be read: a.jpg (the file is empty), ...`."""
    return (
        f'{len(predictions.skipped)} of {len(predictions)} images could not be read: '
        f'{_list_skipped(predictions.skipped)}'
    )


def _list_skipped(skipped: dict[str, str]) -> str:
    shown = ', '.join(f'{name} ({reason})' for name, reason in list(skipped.items())[:NUM_SHOWN])
    return shown + (', ...' if len(skipped) > NUM_SHOWN else '')


def ready_model(
    model: Model,
    weights: str | None,
    device: str | torch.device | None,
    options: dict | None,
    trunk_only: bool = False,
    tokenizer: str | Sequence[str] | None = None,
) -> BaseModel:
    """load_model for inference: weights are needed, and a loaded model is put in evaluation mode.

    Raises:
        ValueError: If a model is to be loaded and nothing says from where, or one is loaded and weights, a tokenizer,
            a device or options are given.
    """
    if isinstance(model, nn.Module):
        given = dict(weights=weights, tokenizer=tokenizer, device=device, options=options)
        given = [name for name, value in given.items() if value is not None]
        if given:
            raise ValueError(f'a loaded {type(model).__name__} goes as it is, got {" and ".join(given)} beside it')
        return model.eval()
    loaded = load_model(model, weights, device, tokenizer, options, trunk_only)
    is_named = start_of_whole(loaded.cfg) or trunk_only and has_pretrained(loaded.cfg.model.get('backbone'))
    if weights is None and not is_named:
        raise ValueError(f'weights must name a checkpoint for {type(loaded).__name__}, got none')
    return loaded


def evaluation_pipeline(model: BaseModel) -> Prepare:
    """The steps that the model's config tests with, but for those that load, so that inference equals evaluation.

    Raises:
        ValueError: If the model has no config that tests, or its data set no pipeline.
    """
    cfg = getattr(model, 'cfg', None) or getattr(model, '_config', None) or {}  # MMPretrain's get_model: the second
    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader')
    if loader is None:
        raise ValueError(
            f'a model must have a config with a test_dataloader as `cfg`, which load_model gives it, got '
            f'{type(model).__name__} without'
        )
    pipeline = (innermost_dataset(loader) or {}).get('pipeline')
    if pipeline is None:
        raise ValueError('a config must test on a dataset with a pipeline, got none')
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmengine'):
        steps = [TRANSFORMS.build(step) for step in pipeline]
    steps = Compose([step for step in steps if not isinstance(step, (LoadImageFromFile, LoadAnnotations))])

    def prepare(image: np.ndarray, name: str) -> dict:
        return steps(dict(img=image, img_path=name, img_shape=image.shape[:2], ori_shape=image.shape[:2]))

    return prepare
