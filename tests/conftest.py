"""Fixtures of all tests; xdist's controller reads this file too, and needs none of the modules."""

import gc
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


@pytest.fixture(autouse=True)
def no_instances_left_behind():
    from support.tools import forget_instances

    yield
    forget_instances()


def pytest_collection_finish():
    """Modules stay: a collection of garbage that looks at all their objects takes half a second."""
    import torch

    torch.set_num_threads(1)  # tensors are small: more threads only slow each other down
    gc.collect()
    gc.freeze()


@pytest.fixture(scope='session', autouse=True)
def forkserver():
    """It writes where the first test does, into what pytest captures."""
    from support.tools import start_forkserver

    start_forkserver()


@pytest.fixture(autouse=True)
def nothing_slow_in_loops(request, monkeypatch):
    """Trainings check their config only in tests marked `dry_run`, and draw charts only in those marked `charts`."""
    from support.tools import draw_no_charts

    if not request.node.get_closest_marker('dry_run'):
        monkeypatch.setattr('beit_mm.checks.check_runner', lambda runner: None)
    if not request.node.get_closest_marker('charts'):
        draw_no_charts(monkeypatch.setattr)


@pytest.fixture(scope='session')
def once(tmp_path_factory) -> Callable:
    """A function of a name and a writer: a folder that the first process of a test run writes and all of them share."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base

    def get(name: str, write: Callable[[Path], object]) -> Path:
        folder = shared / name
        with FileLock(shared / f'{name}.lock'):
            if not (folder / 'complete').exists():
                folder.mkdir()
                write(folder)
                (folder / 'complete').touch()
        return folder

    return get


@pytest.fixture(scope='session')
def data(once) -> Path:
    """A folder whose `data` holds small data sets in the layouts of the real ones."""
    from support.data import write_all

    return once('small_data', write_all)


@pytest.fixture
def in_data(data, monkeypatch) -> Path:
    """The folder of `data` as the working directory."""
    from support.data import enter

    enter(data, monkeypatch)
    return data


@pytest.fixture(scope='session')
def digits(once) -> Path:
    """Small embedded data sets in the layouts of ImageNet and ADE20K."""
    from support.digits import write_classification, write_segmentation

    def write(folder: Path) -> None:
        write_classification(folder / 'imagenet', limit=6, renders=2)
        write_segmentation(folder / 'ade20k', num_train=12, num_val=4, limit=6)

    return once('digits', write)
