"""Runs that end by an error: one sentence for what a user can mend, a traceback for the rest; no useless restarts."""

import os
import re
import signal
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.registry import DATASETS
from support import CONFIGS, ROOT
from torch.utils.data import DataLoader

from beit_mm.datasets.bad_images import BadImage
from beit_mm.engine.runners import ending
from beit_mm.errors import TrainingStopped, UserError
from beit_mm.text import show_start

CUDA = torch.OutOfMemoryError(
    'CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139.81 GiB of which 1 GiB is free. '
    'If reserved but unallocated memory is large try setting PYTORCH_ALLOC_CONF\nmore'
)
CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you "
    'tried to allocate 4000000000000 bytes. Error code 12 (Cannot allocate memory)'
)
WORKER = RuntimeError('DataLoader worker (pid 1234) is killed by signal: Killed. ')
KILLED = (
    'error: DataLoader worker (pid 1234) is killed by signal: Killed: the system ends processes when memory runs out; '
    'fewer workers need less: train_dataloader.num_workers is 10'
)
WITH_CP, BATCH = 'model.backbone.with_cp', 'train_dataloader.batch_size'
TEST_BATCH, ACCUMULATE = 'test_dataloader.batch_size', 'optim_wrapper.accumulative_counts'
LONGER = '(with max_iters, schedules and intervals 2 times as long)'
LARGER = 'the model needs more than one such device (docs/scale.md)'


@pytest.fixture(autouse=True)
def no_watch_over_the_launcher(monkeypatch):
    monkeypatch.setattr(ending, '_end_with_launcher', lambda: None)


def run(error: BaseException | Callable | None, work_dir=None, cfg: Config | None = None, stage: str = 'train') -> int:
    """Exit code of a training that raises an error, calls a function, or ends well."""
    hub = SimpleNamespace(runtime_info=dict(loop_stage=stage))
    runner = SimpleNamespace(message_hub=hub, call_hook=lambda *args, **kwargs: None)

    def train():
        if isinstance(error, BaseException):
            raise error
        if error is not None:
            error()

    try:
        ending.run(lambda args: ending.explain(cfg or Config(), runner, train), Namespace(work_dir=work_dir))
    except SystemExit as end:
        return end.code
    return 0


@pytest.mark.parametrize(
    'name, stage, options, expected',
    [
        ('pretrain', 'train', {}, f'{BATCH}=256, try {BATCH}=128 {ACCUMULATE}=2 or {WITH_CP}=True'),
        ('pretrain', 'train', {BATCH: 15, ACCUMULATE: 4, WITH_CP: True}, f'{BATCH}=15, try {BATCH}=5 {ACCUMULATE}=12'),
        ('segment', 'train', {}, f'{BATCH}=2, try {BATCH}=1 {ACCUMULATE}=2 {LONGER} or {WITH_CP}=True'),
        ('segment', 'train', {BATCH: 1, WITH_CP: True}, f'{BATCH}=1, {LARGER}'),
        ('segment', 'val', {}, 'val_dataloader.batch_size=1, try model.test_cfg.windows_per_batch=1'),
        ('finetune', 'test', {TEST_BATCH: 64}, f'{TEST_BATCH}=64, try {TEST_BATCH}=32'),
    ],
)
def test_the_advice_fits_the_config(name, stage, options, expected, tmp_path, capsys):
    cfg = Config.fromfile(CONFIGS / f'beit_{name}.py')
    cfg.merge_from_dict(options)
    assert run(CUDA, tmp_path, cfg, stage) == 1
    printed = capsys.readouterr().err.splitlines()[-1].replace('--cfg-options ', '')
    assert printed == f'error: CUDA out of memory. Tried to allocate 2.00 GiB; with {expected}'
    assert 'raise error' in (tmp_path / 'traceback.txt').read_text()


class Failing(torch.utils.data.Dataset):
    """One item that cannot be had."""

    def __init__(self, error: Exception):
        self.error = error

    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise self.error


def error_of_worker(error: Exception) -> Exception:
    """The error as the main process gets it from a loader's worker."""
    with pytest.raises(type(error)) as caught:
        next(iter(DataLoader(Failing(error), num_workers=1)))
    return caught.value


PORT = 'The server socket has failed to listen on any local network address. port: 29500, useIpv6: false'
SIZES = 'stack expects each tensor to be equal size, but got [3, 48, 64] at entry 0 and [3, 50, 64] at entry 1'
OPENCV = "OpenCV(5.0.0) /io/opencv/modules/imgcodecs/src/loadsave.cpp:1291: error: (-215) in function 'imdecode_'"
SHM = 'DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that'


@pytest.mark.parametrize(
    'error, expected',
    [
        (CPU, "DefaultCPUAllocator: can't allocate memory"),
        (MemoryError('Unable to allocate 8.00 PiB for an array'), '8.00 PiB for an array; with train_dataloader.batch'),
        (WORKER, KILLED),
        (UserError('a mistake'), 'error: a mistake'),
        (error_of_worker(UserError('a mistake in the data')), 'error: a mistake in the data'),
        (
            FileNotFoundError(2, 'No such file or directory', 'a.png'),
            "error: [Errno 2] No such file or directory: 'a.png'",
        ),
        (OSError(28, 'No space left on device', 'a.pth'), 'error: No space left on device: a.pth: free some space'),
        (OSError(28, 'No space left on device'), 'error: No space left on device: {tmp_path}: free some space'),
        (RuntimeError('[enforce fail] . PytorchStreamWriter failed writing file data/1'), 'choose another folder'),
        (error_of_worker(OSError(24, 'Too many open files')), 'error: Too many open files: raise `ulimit -n`'),
        (error_of_worker(RuntimeError(SIZES)), 'one number of bands, stack expects each tensor .*: let the pipeline'),
        (RuntimeError('Trying to resize storage that is not resizable'), 'images of a batch must have one size and'),
        (RuntimeError('Cannot find valid image after 1000!'), 'hardly any image can be read'),
        (IndexError('Target 12 is out of bounds.'), 'no class of the head (Target 12 is out of bounds): `beit'),
        (
            error_of_worker(AssertionError('failed to load image: b/a.jpg')),
            'be read (failed to load image: b/a.jpg): `',
        ),
        (error_of_worker(BadImage('b/a.jpg', 'it is empty')), 'b/a.jpg cannot be read as an image: it is empty; mend'),
        (BadImage('b/a.jpg', 'it is empty'), 'error: b/a.jpg cannot be read as an image: it is empty; mend or remove'),
        (error_of_worker(RuntimeError(OPENCV)), "be read (OpenCV.*'imdecode_'): `beit-mm check CONFIG --data` names"),
        (AssertionError('heads. is not in the pretrained model'), 'heads. is not in the pretrained model: no name of'),
        (RuntimeError(SHM), 'workers need more shared memory'),
        (RuntimeError(PORT), 'give another (MASTER_)PORT'),
        (RuntimeError('[pair.cc:538] Connection closed by peer [127.0.0.1]:1'), 'connection to another process'),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_a_user_can_mend_is_one_sentence_and_the_last(error, expected, tmp_path, capsys):
    """The traceback is in a file."""
    assert run(error, tmp_path, Config.fromfile(CONFIGS / 'beit_pretrain.py')) == 1
    *_, noted, last = capsys.readouterr().err.splitlines()
    assert all(part in last for part in expected.replace('{tmp_path}', str(tmp_path)).split('.*')) and last.startswith(
        'error: '
    )
    assert noted == f'(traceback in {tmp_path / "traceback.txt"})'
    assert 'raise error' in (tmp_path / 'traceback.txt').read_text()


def caught(function) -> Exception:
    with pytest.raises(Exception) as info:
        function()
    return info.value


class Bug(Failing):
    """An error in the package's own code."""

    def __getitem__(self, index):
        show_start('text', 'not a number')


@pytest.mark.parametrize('work_dir', ['run', None])
@pytest.mark.parametrize('in_worker', [False, True])
def test_other_errors_are_bugs_and_show_their_traceback(in_worker, work_dir, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    loader = DataLoader(Bug(None), num_workers=int(in_worker), multiprocessing_context='fork' if in_worker else None)
    run(caught(lambda: next(iter(loader))), work_dir and tmp_path / work_dir)
    output = capsys.readouterr().err
    (path,) = tmp_path.glob('*/traceback.txt')
    assert 'Traceback' in output and str(path) in output and 'show_start' in path.read_text()
    bug = 'This is a bug of beit_mm or of a part of your config: TypeError: can only concatenate'
    assert output.splitlines()[-1].startswith(bug)


@pytest.mark.parametrize(
    'error, what',
    [
        (ValueError('no score'), 'error in {file}, line {line}: ValueError: no score'),
        (error_of_worker(KeyError('gt')), "error in {file}, line {line}: KeyError: 'gt'"),
        (SystemExit(3), 'error: {file}, line {line} ended the run by sys.exit(3)'),
    ],
    ids=['alone', 'worker', 'exit'],
)
def test_errors_of_a_user_s_own_code_name_its_file(error, what, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', [str(ROOT / 'tools/train.py')])
    assert run(error, tmp_path) == 1
    pattern = re.escape(what.format(file=__file__, line='LINE')).replace('LINE', r'\d+')
    assert re.fullmatch(pattern, capsys.readouterr().err.splitlines()[-1])
    assert (tmp_path / 'traceback.txt').is_file()


class NoScores(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return None


@pytest.mark.parametrize('prefix', [None, 'own'])
def test_a_metric_without_scores_is_named_with_its_file(prefix, tmp_path, capsys):
    """MMEngine fails at them in its own code."""
    metric = NoScores(prefix=prefix)
    metric.process(None, None)
    metric.dataset_meta = {}
    assert run(lambda: Evaluator([metric]).evaluate(1), tmp_path) == 1
    pattern = rf'error: {__file__}, line \d+: NoScores.compute_metrics must return a dict of scores, got None'
    assert re.fullmatch(pattern, capsys.readouterr().err.splitlines()[-1])


def test_a_report_that_cannot_be_written_is_left_out(tmp_path, capsys, monkeypatch):
    """As on a full or read-only disk: neither in the work directory nor in the temporary one."""
    (tmp_path / 'file').touch()
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'file'))
    assert run(OSError(30, 'Read-only file system', 'run'), tmp_path / 'file' / 'run') == 1
    sentence = 'error: Read-only file system: run: free some space there or choose another folder'
    assert capsys.readouterr().err.splitlines() == [sentence]


@pytest.mark.parametrize(
    'error, launched, code',
    [(TrainingStopped('saved'), False, 0), (TrainingStopped('saved', 130), False, 130)]
    + [(TrainingStopped('saved', 130), True, 0), (KeyboardInterrupt(), False, 130), (KeyboardInterrupt(), True, 130)],
)
def test_exit_codes_of_signals(error, launched, code, tmp_path, capsys, monkeypatch):
    """For torchrun another code than 0 is a failure, so its launcher gets the code by a file."""
    if launched:
        (tmp_path / 'attempt_0').mkdir()
        monkeypatch.setenv('TORCHELASTIC_ERROR_FILE', str(tmp_path / 'attempt_0' / '0' / 'error.json'))
    assert run(error) == code and 'Traceback' not in capsys.readouterr().err
    if launched:
        assert (tmp_path / 'attempt_0' / 'end').read_text().startswith('130\n')


class Lost:
    """Raises in its destructor, where Python drops it."""

    def __init__(self, error: type[BaseException]):
        self.error = error

    def __del__(self):
        raise self.error


def test_an_interruption_of_a_destructor_is_not_lost(capsys, monkeypatch):
    """And what was interrupted while it was made, such as a loader, says nothing."""
    monkeypatch.setattr(sys, 'unraisablehook', sys.unraisablehook)  # run sets it

    def job():
        half_made = Lost(AttributeError)
        Lost(KeyboardInterrupt)
        time.sleep(60)
        del half_made

    assert run(job) == 130 and capsys.readouterr().err == 'interrupted\n'


@pytest.mark.parametrize(
    'error, max_restarts, ends',
    [(UserError('a mistake'), 3, True), (UserError('a mistake'), 0, False), (OSError(5, 'input/output'), 3, False)],
)
def test_torchrun_does_not_repeat_a_mistake(error, max_restarts, ends, tmp_path, monkeypatch):
    """The first process of a machine that has the error ends it, once."""
    signals = []
    monkeypatch.setattr('time.sleep', lambda seconds: None)
    monkeypatch.setattr(os, 'kill', lambda *args: signals.append(args))
    monkeypatch.setenv('TORCHELASTIC_ERROR_FILE', str(tmp_path / 'attempt_0' / '0' / 'error.json'))
    monkeypatch.setenv('TORCHELASTIC_MAX_RESTARTS', str(max_restarts))
    run(error)
    run(error)
    to_launcher = [each for each in signals if each[0] == os.getppid()]  # earlier tests may end children of their own
    assert to_launcher == ([(os.getppid(), signal.SIGTERM)] if ends else [])


@pytest.mark.skipif(sys.platform != 'linux', reason='needs prctl')
@pytest.mark.filterwarnings('ignore:.*multi-threaded.*fork')
def test_a_stopped_process_goes_on_when_its_launcher_is_gone(tmp_path):
    launcher = os.fork()
    if launcher == 0:
        if os.fork() == 0:
            ending.wake_with_parent()
            os.kill(os.getpid(), signal.SIGSTOP)
            (tmp_path / 'went_on').touch()
            os._exit(0)
        os.waitpid(-1, os.WUNTRACED)
        os._exit(0)
    os.waitpid(launcher, 0)
    end = time.monotonic() + 60
    while not (tmp_path / 'went_on').exists():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(
    'dataset, expected',
    [
        (dict(type='mmpretrain.CustomDataset', data_prefix='{}', metainfo=dict(classes=['cat', 'dog'])), '1.*2'),
        (dict(type='mmpretrain.CIFAR100', data_root='{}', split='train', download=False), 'Cannot find'),
        (dict(type='mmpretrain.CustomDataset', data_prefix='{}', metainfo=dict(classes=['cat'])), 'Found 0 files'),
        (
            dict(
                type='mmseg.BaseSegDataset',
                data_root='{}',
                metainfo=dict(classes=['a'], palette=[[0, 0, 0], [1, 1, 1]]),
            ),
            'palette',
        ),
    ],
    ids=['folders that are no classes', 'no files', 'no images', 'palette'],
)
def test_what_a_hosts_data_set_refuses_is_one_sentence(dataset, expected, tmp_path, capsys):
    (tmp_path / 'cat').mkdir()
    dataset = {key: value.format(tmp_path) if isinstance(value, str) else value for key, value in dataset.items()}
    assert run(lambda: DATASETS.build(dataset)) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.search(f'^error: {dataset["type"].split(".")[1]}.*({expected})', last)
