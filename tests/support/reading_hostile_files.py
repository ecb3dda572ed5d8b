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
from mmengine.config import ConfigDict
from mmpretrain.datasets import CustomDataset
from PIL import Image

from beit_mm.checks.labels import check_labels
from beit_mm.checks.run_plan import RunPlan
from beit_mm.datasets import BadImage, LoadAnnotations, LoadImage
from support.hostile_files import hostile_image, hostile_label_map, hostile_lines, NUM_CLASSES

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


def read_lines(rng: np.random.Generator, folder: Path) -> Case:
    """What passes the early check is read by the host, stays within the data and has labels of the head."""
    has_labels = bool(rng.integers(2))
    path = folder / 'lines.txt'
    path.write_bytes(hostile_lines(rng))
    dataset = dict(
        type='CustomDataset', data_root=str(folder), data_prefix='images', ann_file='lines.txt', with_label=has_labels
    )
    problems = [problem for problem in check_labels(_plan('mmpretrain', dataset, 'head')) if problem.is_error]
    kind = 'path label' if has_labels else 'path'
    if problems:
        return Case(kind, 'refused' if str(path) in str(problems[0]) else f'unnamed: {problems[0]}')
    dataset.pop('type')
    samples = CustomDataset(**dataset, serialize_data=False).data_list  # serialising collects garbage, which takes long
    inside = all(f'{os.path.normpath(sample["img_path"])}/'.startswith(f'{folder}/') for sample in samples)
    fits = all(0 <= sample.get('gt_label', 0) < NUM_CLASSES for sample in samples)
    return Case(kind, 'read' if inside and fits else f'let pass: inside {inside}, labels fit {fits}')


def read_label_map(rng: np.random.Generator, folder: Path) -> Case:
    """What passes the early check passes the training's step, with labels of the head."""
    for kind in ('images', 'labels'):
        (folder / kind).mkdir(exist_ok=True)
    sides = rng.integers(1, 40, 2)
    Image.new('RGB', tuple(map(int, sides[::-1]))).save(folder / 'images' / 'a.png')
    path = folder / 'labels' / 'a.png'
    path.write_bytes(hostile_label_map(rng, sides))
    dataset = dict(
        type='BaseSegDataset',
        data_root=str(folder),
        img_suffix='.png',
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        pipeline=[dict(type='LoadAnnotations')],
    )
    problems = [problem for problem in check_labels(_plan('mmseg', dataset, 'decode_head')) if problem.is_error]
    step = LoadAnnotations(NUM_CLASSES)
    results = dict(
        seg_map_path=str(path), reduce_zero_label=False, label_map=None, seg_fields=[], ori_shape=tuple(map(int, sides))
    )
    try:
        labels = step(results)['gt_seg_map']
    except ValueError as error:
        return Case('label map', 'refused' if problems and str(path) in str(error) else f'let pass: {error}')
    fits = np.isin(labels, [*range(NUM_CLASSES), 255]).all()
    return Case('label map', 'refused early alone' if problems else 'read' if fits else 'label outside')


def _plan(scope: str, dataset: dict, head: str) -> RunPlan:
    model = {'type': 'ImageClassifier', head: dict(num_classes=NUM_CLASSES), 'backbone': dict(type='beit_mm.BEiT')}
    cfg = dict(default_scope=scope, model=model, train_dataloader=dict(dataset=dataset))
    return RunPlan(ConfigDict(cfg).to_dict(), ('train_dataloader',))


READERS: tuple[Callable, ...] = (read_image,) * 6 + (read_lines,) * 3 + (read_label_map,)


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
