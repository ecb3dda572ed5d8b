"""The loop of inference: threads read and prepare images while the model computes on earlier ones in batches."""

import logging
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import torch
from mmengine.logging import print_log
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from beit_mm.datasets.bad_images import BadImage
from beit_mm.datasets.images import count_channels, find_loader, find_suffixes, read_image
from beit_mm.datasets.listing import LeftOut
from beit_mm.datasets.transforms.loading import MAX_PIXELS
from beit_mm.errors import describe_shortage, OutOfMemory, UserError
from beit_mm.text import show

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
        **loading: `device`, `options`, `tokenizer`, `trunk_only` and `ema` of load_model.

    Raises:
        FileNotFoundError: If there is no such config or checkpoint.
        UserError: If the weights do not fit the model, or the model does not fit the task.
    """

    batch_size = 32  # by default
    max_pixels = MAX_PIXELS  # of an image file
    keeps_pixels = False  # whether images keep their pixels after the model has seen them

    def __init__(self, model: Model, weights: str | None = None, **loading):
        self.model = load_for_inference(model, weights, **loading)
        self.channels = count_channels(self.model)
        self.load = find_loader(self.model, self.channels)
        self.load.max_pixels = self.max_pixels

    def prepare(self, image: np.ndarray, name: str) -> dict:
        """From an image, see read_image, to a dict with the tensor `inputs`. Threads call it."""
        raise NotImplementedError

    def compute(self, samples: list[dict]) -> list[dict]:
        """From prepared images whose `inputs` have one shape to a result for each."""
        raise NotImplementedError

    def __call__(self, images: Images, batch_size: int | None = None, progress: bool = True) -> Results:
        """All results at once; a line in the log names the images that could not be read. See `each`."""
        return self.each(images, batch_size, progress).collect()

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
        left_out: how many files of the folders are no images, by reason.

    Raises:
        BadImage: If the only image cannot be read.
        UserError: If none of several can be read, batch_size is not positive, or the model refuses an image.
        OutOfMemory: If a batch is too large for the device.
    """

    def __init__(self, inferencer: Inferencer, images: Images, batch_size: int, progress: bool):
        if batch_size < 1:
            raise UserError(f'batch_size must be at least 1, got {batch_size}')
        self.left_out = LeftOut()
        self.images = find_images(images, self.left_out, find_suffixes(inferencer.model))
        self.skipped: dict[str, str] = {}
        self.inferencer, self._batch_size, self._progress = inferencer, batch_size, progress

    def __len__(self) -> int:
        """The number of images, including those that will be skipped."""
        return len(self.images)

    def __iter__(self) -> Iterator[tuple[NamedImage, dict]]:
        self.skipped.clear()
        console = Console(stderr=True)
        is_shown = self._progress and len(self) > 1 and console.is_terminal
        columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns, console=console, disable=not is_shown, redirect_stdout=False) as bar:
            yield from bar.track(self._results(), total=len(self))
        if len(self.skipped) == len(self):
            raise UserError(f'none of {len(self)} images could be read: {self._list_skipped()}')

    def collect(self) -> Results:
        """All results at once; a line in the log names the images that could not be read."""
        results = Results(result for _, result in self)
        results.skipped = self.skipped
        if self.skipped:
            text = f'{len(self.skipped)} of {len(self)} images could not be read: {self._list_skipped()}'
            print_log(text, logger='current', level=logging.WARNING)
        if self.left_out:
            print_log(f'left out of {len(self)} images: {show(self.left_out)}', logger='current', level=logging.WARNING)
        return results

    def _results(self) -> Iterator[tuple[NamedImage, dict]]:
        batch: list[tuple[NamedImage, dict]] = []
        for image, sample in self._read_ahead():
            if batch and (len(batch) == self._batch_size or sample['inputs'].shape != batch[0][1]['inputs'].shape):
                yield from self._compute(batch)
                batch = []
            batch.append((image, sample))
        if batch:
            yield from self._compute(batch)

    @torch.no_grad()
    def _compute(self, batch: list[tuple[NamedImage, dict]]) -> list[tuple[NamedImage, dict]]:
        images, samples = zip(*batch)
        try:
            results = self.inferencer.compute(list(samples))
        except ValueError as error:  # of a model, which knows no names
            raise UserError(f'{images[0].name}: {error}') from error
        except RuntimeError as error:
            shortage = describe_shortage(error)
            if shortage is None:
                raise
            raise OutOfMemory(
                f'{shortage}; the batch had {len(images)} images of {tuple(samples[0]["inputs"].shape)}, the first '
                f'{images[0].name}: try a smaller batch_size or smaller images'
            ) from error
        return [(image, dict(image=image.name, **result)) for image, result in zip(images, results)]

    def _read_ahead(self) -> Iterator[tuple[NamedImage, dict]]:
        # CPUs of this process, which in a container are fewer than the machine has
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
        pool, waiting, images = ThreadPoolExecutor(min(cpus, MAX_THREADS)), deque(), iter(self.images)
        try:
            while True:
                for image in images:
                    waiting.append((image, pool.submit(self._read, image)))
                    if len(waiting) > self._batch_size:
                        break
                if not waiting:
                    return
                image, reading = waiting.popleft()
                try:
                    yield reading.result()
                except BadImage as error:
                    if len(self) == 1:
                        raise
                    self.skipped[image.name] = error.reason
        finally:
            pool.shutdown(cancel_futures=True)

    def _read(self, image: NamedImage) -> tuple[NamedImage, dict]:
        pixels = read_image(image.source, self.inferencer.load, self.inferencer.channels)
        try:
            sample = self.inferencer.prepare(pixels, image.name)
        except cv2.error as error:  # such as of an image of 10,000 x 2 pixels, whose short side would become 0
            size = f'{pixels.shape[1]} x {pixels.shape[0]}'
            raise BadImage(image.name, f'a step of the pipeline refuses its {size} pixels: {error.err}') from error
        return (image._replace(pixels=pixels) if self.inferencer.keeps_pixels else image), sample

    def _list_skipped(self) -> str:
        shown = [show(f'{name} ({reason})') for name, reason in self.skipped.items()]
        return ', '.join([*shown[:NUM_SHOWN], *(['...'] if len(shown) > NUM_SHOWN else [])])
