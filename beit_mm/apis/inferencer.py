"""The loop of inference: threads read and prepare images while the model computes on earlier ones in batches."""

import logging
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from mmengine.logging import print_log
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from beit_mm.datasets.bad_images import BadImage
from beit_mm.datasets.images import read_image
from beit_mm.engine.runners.memory import describe_shortage, OutOfMemory
from beit_mm.errors import UserError

from .images import find_images, Images, NamedImage
from .models import load_for_inference, Model

MAX_THREADS = 8
NUM_SHOWN = 3  # names of images that could not be read, in a message


class Results(list):
    """Results in the order of the images, a dict each.

    Attributes:
        skipped: the reason for every image that could not be read, by its name.
    """

    skipped: dict[str, str]


class Inferencer:
    """Inference with one model on many images. Subclasses say how an image is prepared and what is computed.

    Args:
        model: a name of `list_models()`, the path of a config, a Config, or a loaded model.
        weights: a checkpoint in any layout; None with a loaded model.
        device: None for the GPU if there is one, otherwise the CPU.
        options: keys of the config to override, such as {'model.head.num_classes': 10}.
        **loading: `trunk_only` and `tokenizer` of load_model.

    Raises:
        FileNotFoundError: If there is no such config or checkpoint.
        UserError: If the weights do not fit the model, or the model does not fit the task.
    """

    batch_size = 32  # by default
    keeps_pixels = False  # whether images keep their pixels after the model has seen them

    def __init__(
        self,
        model: Model,
        weights: str | None = None,
        device: str | torch.device | None = None,
        options: dict | None = None,
        **loading,
    ):
        self.model = load_for_inference(model, weights, device, options, **loading)

    def prepare(self, image: np.ndarray, name: str) -> dict:
        """From an image, uint8 (H, W, 3) in BGR, to a dict with the tensor `inputs`. Threads call it."""
        raise NotImplementedError

    def compute(self, samples: list[dict]) -> list[dict]:
        """From prepared images whose `inputs` have one shape to a result for each."""
        raise NotImplementedError

    def __call__(self, images: Images, batch_size: int | None = None, progress: bool = True) -> Results:
        """All results at once; a line in the log names the images that could not be read. See `each`."""
        predictions = self.each(images, batch_size, progress)
        results = Results(result for _, result in predictions)
        results.skipped = predictions.skipped
        if results.skipped:
            print_log(
                f'{len(results.skipped)} of {len(predictions)} images could not be read: '
                f'{_list_skipped(results.skipped)}',
                logger='current',
                level=logging.WARNING,
            )
        return results

    def each(self, images: Images, batch_size: int | None = None, progress: bool = True) -> 'Predictions':
        """Results one by one, for more images than memory holds.

        Args:
            images: a file, a folder, an array uint8 in BGR, a Pillow image, or a list of these.
            batch_size: the most images in a batch; None for the default of the task.
            progress: show a bar on standard error, if that is a terminal.
        """
        return Predictions(self, images, self.batch_size if batch_size is None else batch_size, progress)


class Predictions:
    """Iterating gives (image, result) in the order of the images and leaves out those that cannot be read.

    At most two batches are read ahead. A change of shape ends a batch.

    Attributes:
        images: list[NamedImage], all of them.
        skipped: the reason for every image that could not be read so far, by its name.

    Raises:
        BadImage: If the only image cannot be read.
        UserError: If none of several can be read, batch_size is not positive, or the model refuses an image.
        OutOfMemory: If a batch is too large for the device.
    """

    def __init__(self, inferencer: Inferencer, images: Images, batch_size: int, progress: bool):
        if batch_size < 1:
            raise UserError(f'batch_size must be at least 1, got {batch_size}')
        self.images = find_images(images)
        self.skipped: dict[str, str] = {}
        self.inferencer, self._batch_size, self._progress = inferencer, batch_size, progress

    def __len__(self) -> int:
        """The number of images, including those that will be skipped."""
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
                yield from zip(images, self._compute(images, samples))
                done += len(images)
                bar.update(task, completed=done + len(self.skipped))
        if not done:
            raise UserError(f'none of {len(self)} images could be read: {_list_skipped(self.skipped)}')

    @torch.no_grad()
    def _compute(self, images: list[NamedImage], samples: list[dict]) -> list[dict]:
        try:
            results = self.inferencer.compute(samples)
        except ValueError as error:  # of a model, which knows no names
            raise UserError(f'{images[0].name}: {error}') from error
        except RuntimeError as error:
            shortage = describe_shortage(error)
            if shortage is None:
                raise
            shape = tuple(samples[0]['inputs'].shape)
            raise OutOfMemory(
                f'{shortage}; {len(images)} images of {shape} were too many, try a smaller batch_size'
                if len(images) > 1
                else f'{shortage}; one image of {shape}, {images[0].name}, was too much, try a smaller one'
            ) from error
        return [dict(image=image.name, **result) for image, result in zip(images, results)]

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
        pool, waiting = ThreadPoolExecutor(min(num_cpus(), MAX_THREADS)), deque()
        try:
            for image in self.images:
                waiting.append((image, pool.submit(self._read, image)))
                if len(waiting) > self._batch_size:
                    yield from self._take(*waiting.popleft())
            while waiting:
                yield from self._take(*waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _read(self, image: NamedImage) -> tuple[NamedImage, dict]:
        pixels = read_image(image.source)
        sample = self.inferencer.prepare(pixels, image.name)
        return (image._replace(pixels=pixels) if self.inferencer.keeps_pixels else image), sample

    def _take(self, image: NamedImage, reading: Future) -> Iterator[tuple[NamedImage, dict]]:
        """The image and its sample from a thread; nothing if the image is bad."""
        try:
            yield reading.result()
        except BadImage as error:
            if len(self) == 1:
                raise
            self.skipped[image.name] = error.reason


def num_cpus() -> int:
    """CPUs that this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def _list_skipped(skipped: dict[str, str]) -> str:
    shown = ', '.join(f'{name} ({reason})' for name, reason in list(skipped.items())[:NUM_SHOWN])
    return shown + (', ...' if len(skipped) > NUM_SHOWN else '')
