"""Run the tools as a user does: as a command, as a copy of a process with all modules loaded, or in this process."""

import faulthandler
import json
import logging
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import multiprocessing.util
import os
import runpy
import subprocess
import sys
import tempfile
import warnings
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch
from mmengine.utils import ManagerMixin
from yapf.yapflib import yapf_api

from beit_mm.__main__ import main
from beit_mm.checks.config_check import subclasses
from beit_mm.engine.runners import launch
from beit_mm.visualization.report import page
from support import ROOT

TIMEOUT = 300  # seconds
# Its processes begin as copies of one that has imported the package and the hosts, which takes ten seconds.
forkserver = multiprocessing.get_context('forkserver')
forkserver.set_forkserver_preload(
    ['beit_mm.engine.runners.launch', 'beit_mm.apis', 'matplotlib.figure', 'torch.utils.tensorboard']
)
VARIABLES = dict(PYTHON=sys.executable, OMP_NUM_THREADS='1', PYTHONWARNINGS='ignore', CUDA_VISIBLE_DEVICES='')


def start_forkserver() -> None:
    """Fork the forkserver from this process, which has all modules loaded, before the first test runs."""
    multiprocessing.resource_tracker.ensure_running()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multiprocessing.util, 'spawnv_passfds', _fork)
        multiprocessing.forkserver.ensure_running()


def _fork(path: str, arguments: list[str], files: list[int]) -> int:
    """As `multiprocessing.util.spawnv_passfds` of `python -c TEXT`, without what pytest did to this process."""
    pid = os.fork()
    if pid:
        return pid
    try:
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        logging.root.handlers.clear()
        faulthandler.disable()
        warnings.resetwarnings()
        forget_instances()
        for file in map(int, os.listdir('/proc/self/fd')):
            if file > 2 and file not in files:
                with suppress(OSError):
                    os.close(file)
        exec(arguments[-1], {})
    finally:
        os._exit(1)


def run(*command: str, cwd: Path = ROOT, ok: bool = True, **variables: str) -> str:
    """Output of a command, which must end well or badly as expected."""
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **VARIABLES, **variables},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    output = result.stdout + result.stderr
    assert (result.returncode == 0) == ok, output[-3000:]
    return output


def tool(name: str, *arguments: str, ok: bool = True) -> str:
    """Output of a tool, a file or a folder with a `__main__.py`, or of `beit-mm`, which must end well or badly as
    expected.

    Configs are printed as they come: to lay out their text takes most of the time of most tools.
    """
    with tempfile.NamedTemporaryFile('r') as output:
        process = forkserver.Process(target=_run_tool, args=(name, [str(part) for part in arguments], output.name))
        process.start()
        process.join(TIMEOUT)
        if process.is_alive():
            process.kill()
        text = output.read()
    assert (process.exitcode == 0) == ok, f'exit code {process.exitcode}: {text[-3000:]}'
    return text


def _run_tool(name: str, arguments: list[str], output: str) -> None:
    leave_text_as_it_is()
    draw_no_charts()
    stream = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    os.environ.update(VARIABLES)
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    os.chdir(ROOT)
    if name == 'beit-mm':
        return main(arguments)
    script = ROOT / 'tools' / name if (ROOT / 'tools' / name).is_dir() else ROOT / 'tools' / f'{name}.py'
    sys.path.insert(0, str(script.parent))
    sys.argv = [str(script), *arguments]
    runpy.run_path(sys.argv[0], run_name='__main__')


def import_tool(folder: str, name: str) -> ModuleType:
    """A module beside the `__main__.py` of a folder of tools, found as by `python tools/FOLDER`."""
    path = str(ROOT / 'tools' / folder)
    if path not in sys.path:
        sys.path.append(path)
    return import_module(name)


def scores(folder: Path) -> dict:
    return json.loads(max(folder.glob('*/*.json'), key=lambda path: path.stat().st_mtime).read_text())


def run_here(words: Sequence[object]) -> None:
    """A script and its arguments in this process, which has all modules loaded.

    Raises:
        SystemExit: If it ends badly.
    """
    forget_instances()
    before, sys.argv = sys.argv, [str(word) for word in words]
    try:
        runpy.run_path(sys.argv[0], run_name='__main__')
    except SystemExit as end:
        if end.code:
            raise
    finally:
        sys.argv = before


def command(*words: object) -> None:
    """`beit-mm` in this process; see run_here."""
    forget_instances()
    main([str(word) for word in words])


def train(config: str | Path, work_dir: Path, resume: str | None = None, check: bool = False, **more) -> None:
    """tools/train.py in this process, with validation; `more` replaces its other arguments.

    Without the check of the config and the report's charts, which take longer than a short training.
    """
    forget_instances()
    arguments = dict(no_validate=False, auto_scale_lr=False, launcher='none', cfg_options=None, resume=resume)
    with pytest.MonkeyPatch.context() as patch:
        draw_no_charts(patch.setattr)
        if not check:
            patch.setattr(launch, 'check_before_training', lambda *_: [])
        launch.train(Namespace(config=str(config), work_dir=str(work_dir), **{**arguments, **more}))


def forget_instances() -> None:
    """Take away all that MMEngine's Runners have made known by name.

    A second Runner of the same second and config would go on with the histories of the first, log to its files and into
    its visualizer's folder, and whatever logs without one would write to its output, which may be closed.
    """
    for manager in subclasses(ManagerMixin):
        manager._instance_dict.clear()


def leave_text_as_it_is(patch: Callable = setattr) -> None:
    """MMEngine lays out the text of a config several times a run, which would take most of the time."""
    patch(yapf_api, 'FormatCode', lambda text, **_: (text, True))


def draw_no_charts(patch: Callable = setattr) -> None:
    """The report of every training has charts, which would take half of the time of a short one."""
    patch(page, 'draw_chart', lambda *_: '')


# Options that shrink a demonstration

SMALL_TRUNK = ['model.backbone.embed_dim=32', 'model.backbone.depth=2', 'model.backbone.num_heads=2']


def data_options(digits: Path, kind: str = 'imagenet', **more) -> list:
    return [
        f'{loader}.{key}={value}'
        for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader')
        for key, value in {'dataset.data_root': digits / kind, 'num_workers': 0, 'batch_size': 8, **more}.items()
    ]
