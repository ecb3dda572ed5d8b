"""Read damaged and hostile files, by number, and count the outcomes.

A child process reads them, so that a crash or a hang of a decoder is noticed.
"""

import multiprocessing
import os
import resource
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from beit_mm.datasets import BadImage, LoadAnnotations, LoadImage
from support.hostile_files import hostile_image, hostile_label_map, NUM_CLASSES

SECONDS = 60  # for one case, of a fraction of a second, before it counts as a hang
BACKENDS = ('simplejpeg', 'simplejpeg', 'cv2', 'pillow')


class Case(NamedTuple):
    """The result of one case.

    Attributes:
        kind: of file.
        outcome: 'read', 'refused', or what must not be.
    """

    kind: str
    outcome: str


def read_image(rng: np.random.Generator, folder: Path) -> Case:
    kind, content = hostile_image(rng)
    step = LoadImage(imdecode_backend=str(rng.choice(BACKENDS)))
    path = folder / 'image'
    path.write_bytes(content)
    info = dict(img_path=str(path)) if rng.random() < 0.5 else dict(img_path=str(path), img_bytes=content)
    try:
        image = step(info)['img']
    except BadImage as error:
        return Case(kind, 'refused' if str(path) in str(error) and error.reason else 'no reason')
    is_image = image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8 and image.size
    return Case(kind, 'read' if is_image else f'{image.dtype} {image.shape}')


def read_label_map(rng: np.random.Generator, folder: Path) -> Case:
    """A training's step gives labels of the head or names the file that it refuses."""
    sides = rng.integers(1, 40, 2)
    path = folder / 'a.png'
    path.write_bytes(hostile_label_map(rng, sides))
    step = LoadAnnotations(NUM_CLASSES)
    results = dict(
        seg_map_path=str(path), reduce_zero_label=False, label_map=None, seg_fields=[], ori_shape=tuple(map(int, sides))
    )
    try:
        labels = step(results)['gt_seg_map']
    except ValueError as error:
        return Case('label map', 'refused' if str(path) in str(error) else f'unnamed: {error}')
    fits = np.isin(labels, [*range(NUM_CLASSES), 255]).all()
    return Case('label map', 'read' if fits else 'label outside')


READERS: tuple[Callable, ...] = (read_image,) * 9 + (read_label_map,)


def run_case(number: int, folder: Path) -> Case:
    """The case of a number, always the same."""
    rng = np.random.default_rng([6, number])
    reader = READERS[number % len(READERS)]
    try:
        return reader(rng, folder)
    except Exception as error:
        return Case(reader.__name__, f'{type(error).__name__}: {error}')


def _child(connection, numbers: range, folder: str) -> None:
    with open(Path(folder) / 'stderr', 'wb') as errors:
        os.dup2(errors.fileno(), 2)
    for number in numbers:
        connection.send((number, run_case(number, Path(folder)), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))


class Report(NamedTuple):
    """Of many cases.

    Attributes:
        counts: cases by kind and outcome.
        failures: number and outcome of each that neither read nor refused the file in the right way.
        memory: of the child at most, MiB.
        messages: bytes that decoders wrote to standard error.
    """

    counts: Counter
    failures: list[tuple[int, str]]
    memory: float
    messages: int


def run_cases(numbers: range, folder: Path) -> Report:
    """Read the files of all numbers in a child process."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['beit_mm'])
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(sender, numbers, str(folder)), daemon=True)
    child.start()
    sender.close()
    counts, failures, memory = Counter(), [], 0.0
    for expected in numbers:
        if not receiver.poll(SECONDS):
            failures.append((expected, 'hangs'))
            break
        try:
            number, case, used = receiver.recv()
        except EOFError:
            child.join(SECONDS)
            failures.append((expected, f'ends the process: {child.exitcode}'))
            break
        counts[case] += 1
        memory = max(memory, used / 1024)
        if case.outcome not in ('read', 'refused', 'refused early alone'):
            failures.append((number, f'{case.kind}: {case.outcome}'))
    child.kill()
    child.join()
    return Report(counts, failures, memory, (folder / 'stderr').stat().st_size)


MAX_MEMORY = 4096  # MiB; images of 100 million pixels are let pass, and take 300 MB more than once


def check_cases(numbers: range, folder) -> None:
    report = run_cases(numbers, folder)
    assert report.failures == []
    assert sum(report.counts.values()) == len(numbers) and report.memory < MAX_MEMORY
    outcomes = {outcome for _, outcome in report.counts}
    assert {'read', 'refused'} <= outcomes  # the cases are neither all whole nor all hopeless
