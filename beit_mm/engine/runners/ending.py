"""How a run ends: one sentence for what a user can mend, a traceback for the rest, exit codes, torchrun's restarts."""

import ctypes
import logging
import os
import re
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.runner import Runner

from beit_mm.datasets.bad_images import BadImage
from beit_mm.errors import describe_bad_data, describe_shortage, find_own_code, OutOfMemory, TrainingStopped, UserError
from beit_mm.evaluation.metrics import describe_no_scores
from beit_mm.hiding import hide_secrets, hide_secrets_in_logs
from beit_mm.models.weights import WeightsMismatch
from beit_mm.text import format_warning, show

from .interrupts import repeat_interrupt

INTERRUPTED = 128 + signal.SIGINT  # exit code
TRACEBACK = 'traceback.txt'
LOST = 'Connection (closed|reset) by peer|remote process exited|Timed out waiting'
SHM = 'out of shared memory|Bus error|unable to (write to file|allocate shared memory).*torch_'
FULL = 'No space left on device|Disk quota exceeded|Read-only file system|File too large|PytorchStreamWriter failed.*'
# What a user can mend in errors of torch and of the system, and what to say; {0} is the text that matches.
MENDS = {
    SHM: 'loader workers need more shared memory ({0}): make /dev/shm larger or num_workers smaller',
    'received 0 items of ancdata|Too many open files': '{0}: raise `ulimit -n` or make num_workers smaller',
    FULL: '{0}: free some space there or choose another folder',
    'stack expects each tensor to be equal size.*|Trying to resize storage that is not resizable': 'images of a batch '
    'must have one size and one number of bands, {0}: let the pipeline end in one size, such as by a Resize without '
    'keep_ratio or a crop',
    'Target .* is out of bounds|device-side assert triggered': 'a label is no class of the head ({0}): '
    '`beit-mm check CONFIG --data` names its file',
    '[^ ]* is not in the pretrained model': '{0}: no name of its checkpoint begins with this prefix of an init_cfg',
    r'failed to load image: [^{].*|OpenCV.*imgcodecs.*': 'an image cannot be read ({0}): '
    '`beit-mm check CONFIG --data` names its file',
    r'Cannot find valid image after \d+': 'hardly any image can be read ({0} draws): mend or remove the others',
    r'server socket has failed to listen.*port: \d+': 'another run uses this port ({0}): give another (MASTER_)PORT',
    'invalid device ordinal': 'there must be a GPU for every process ({0})',
    LOST: 'the connection to another process of this run is lost ({0}); it says why, if it was not killed',
}


def explain(cfg: Config, runner: Runner, job: Callable[[], object]) -> None:
    """Run a job of a runner. Errors about weights name their file, errors about memory say what to change."""
    try:
        job()
    except WeightsMismatch as error:
        raise UserError(f'{cfg.load_from}: {error}') from error
    except BaseException as error:
        stage = runner.message_hub.runtime_info.get('loop_stage', 'train')
        advice, explained = _advise_on_memory(cfg, stage, error), error
        if advice:
            explained = OutOfMemory(advice)
        elif isinstance(error, BadImage):  # in a training others replace it
            explained = UserError(
                f'{_last_line(error)}; mend or remove it, no image is replaced in a validation or test'
            )
        elif isinstance(error, SystemExit) and not isinstance(error, TrainingStopped):
            place = find_own_code(traceback.format_exc(), Path(sys.argv[0]).absolute().parent)
            explained = UserError(f'{place or "a part of the config"} ended the run by sys.exit({error.code!r})')
        elif isinstance(error, AttributeError) and (mistake := _describe_lost_scores(error)):
            explained = UserError(mistake)
        runner.call_hook('on_exception', error=explained)
        if explained is not error:
            raise explained from error
        raise


def _advise_on_memory(cfg: Config, stage: str, error: BaseException) -> str | None:
    """Which options need less memory, the cheapest first; None for an error that is not about memory."""
    loader = cfg.get(f'{stage}_dataloader') or {}
    if worker := _describe_killed_worker(error):
        return (
            f'{worker}: the system ends processes when memory runs out; fewer workers need less: '
            f'{stage}_dataloader.num_workers is {loader.get("num_workers")}'
        )
    shortage = describe_shortage(error)
    if shortage is None or 'batch_size' not in loader:
        return None
    batch, options = f'{stage}_dataloader.batch_size', []
    batch_size = loader['batch_size']
    factor = next((number for number in range(2, batch_size + 1) if batch_size % number == 0), 1)
    if factor > 1:
        options.append(f'{batch}={batch_size // factor}')
    if stage == 'train':
        if factor > 1:
            count = cfg.optim_wrapper.get('accumulative_counts', 1) * factor
            options[0] += f' optim_wrapper.accumulative_counts={count}'
            if 'max_iters' in cfg.train_cfg:
                options[0] += f' (with max_iters, schedules and intervals {factor} times as long)'
        if 'backbone' in cfg.model and not cfg.model.backbone.get('with_cp'):
            options.append('model.backbone.with_cp=True')
    elif cfg.model.get('test_cfg', {}).get('mode') == 'slide':
        options.append('model.test_cfg.windows_per_batch=1')
    advice = f'try --cfg-options {" or ".join(options)}'
    if not options:
        advice = 'the model needs more than one such device (docs/scale.md)'
    return f'{shortage}; with {batch}={batch_size}, {advice}'


def _describe_lost_scores(error: AttributeError) -> str:
    """Which metric gave no scores: MMEngine fails in its own code, in `evaluate` of its Evaluator or BaseMetric."""
    names = list(traceback.walk_tb(error.__traceback__))[-1][0].f_locals
    metric, key = names.get('metric', names.get('self')), '_results' if '_results' in names else '_metrics'
    return describe_no_scores(metric, names[key]) if isinstance(metric, BaseMetric) and key in names else ''


def _describe_killed_worker(error: BaseException) -> str | None:
    """A loader's worker that was killed, also in the middle of sending a batch; None for other errors."""
    if isinstance(error, (ConnectionError, EOFError)) and 'torch/utils/data/dataloader.py' in traceback.format_exc():
        return 'a DataLoader worker was killed'
    worker = re.search(r'DataLoader worker \(pid.*?(?:signal: .*?\.|unexpectedly)', str(error))
    return worker[0].rstrip('.') if worker and 'Bus error' not in worker[0] else None


def run(job: Callable[[Namespace], None], args: Namespace | Callable[[], Namespace]) -> None:
    """Run a job with arguments, or with those that a function reads, and end the process: with exit code 0, after
    SIGINT 130, after an error 1.

    An error that a user can mend is one sentence, the last line; any other is a traceback. `traceback.txt` in
    `args.work_dir`, or in a temporary folder, has the traceback of both.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # after that of the imports
    sys.unraisablehook = repeat_interrupt
    hide_secrets_in_logs()
    warnings.formatwarning = format_warning
    logging.raiseExceptions = False  # on a full disk each line of a log would be another traceback
    _end_with_launcher()
    code = 0
    try:
        args = args if isinstance(args, Namespace) else args()
        job(args)
    except TrainingStopped as stopped:  # the log has said where it goes on
        if is_main_process():
            note_end(stopped.code, stopped.message)
        code = 0 if launch_dir() else stopped.code  # torchrun takes another for a failure
    except KeyboardInterrupt:
        sys.unraisablehook = lambda lost: None  # of what was interrupted while it was made
        print('interrupted', file=sys.stderr)
        note_end(INTERRUPTED, 'interrupted')
        _leave(INTERRUPTED)
    except Exception as error:
        work_dir = getattr(args, 'work_dir', None)
        sentence = describe_mend(error, work_dir)
        note_end(1, _report(error, sentence, work_dir))
        may_pass = isinstance(error, OSError) and not isinstance(error, FileNotFoundError)
        may_pass = may_pass or re.search(f'{LOST}|DataLoader worker', str(error))
        if sentence and not may_pass:
            _end_restarts()
        _leave(1)
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
        _leave(code, is_shared=True)
    if code:
        sys.exit(code)


def describe_mend(error: Exception, work_dir: str | None) -> str | None:
    """What a user can mend, in one sentence; None for a bug."""
    from_worker = str(error).startswith('Caught ')  # as a text
    is_sentence = isinstance(error, OSError) and error.errno is None and not from_worker
    if not isinstance(error, (UserError, OutOfMemory)) and not is_sentence:
        if shortage := describe_shortage(error):
            return f'{shortage}; a smaller batch needs less'
        for pattern, sentence in MENDS.items():
            if (match := re.search(pattern, str(error))) and not (pattern == LOST and isinstance(error, OSError)):
                file = getattr(error, 'filename', None) or (work_dir if pattern == FULL else None)
                return sentence.format(f'{match[0]}: {file}' if file else match[0])
    if isinstance(error, (UserError, OutOfMemory, OSError, ImportError)):
        return _last_line(error)
    return describe_bad_data(error)


def _last_line(error: Exception) -> str:
    """A loader's worker sends its whole traceback as the message; the sentence comes last."""
    if isinstance(error, (UserError, OSError)) and not str(error).startswith('Caught '):
        return str(error).strip()  # a name in it may hold a line break
    last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return re.sub(r'^[\w.]+: ', '', last) if str(error).startswith('Caught ') else last


def _report(error: Exception, sentence: str | None, work_dir: str | None) -> str:
    """Write the traceback to a file, and say what happened on standard error; returns the last line."""
    text = hide_secrets(traceback.format_exc())
    last = f'error: {show(hide_secrets(sentence or ""))}'
    if sentence is None:
        print('\n'.join(map(show, text.split('\n'))), file=sys.stderr)
        what = f'{type(error).__name__}: {show(hide_secrets(_last_line(error)))}'
        place = find_own_code(text, Path(sys.argv[0]).absolute().parent)
        last = (
            f'error in {show(place)}: {what}'
            if place
            else f'This is a bug of beit_mm or of a part of your config: {what}'
        )
    if path := write_traceback(text, work_dir, is_main_process() and not re.search(LOST, str(error))):
        print(f'(traceback in {show(path)})', file=sys.stderr)
    print(last, file=sys.stderr, flush=True)
    return last


def write_traceback(text: str, work_dir: str | None, may_replace: bool) -> Path | None:
    """The file; None if it cannot be written, or if another process has written one that must stay."""
    for make_folder in (lambda: work_dir, lambda: tempfile.mkdtemp(prefix='beit_mm_')):
        try:
            if folder := make_folder():
                os.makedirs(folder, exist_ok=True)
                path = Path(folder, TRACEBACK)
                options = dict(encoding='utf-8', errors='backslashreplace')  # for names that are no UTF-8
                with open(path, 'w' if may_replace else 'x', **options) as file:
                    file.write(text)
                return path
        except FileExistsError:
            return None
        except OSError:  # such as a full disk
            continue
    return None


def launch_dir() -> Path | None:
    """Torchrun's folder of this launch on this machine; None without torchrun."""
    error_file = os.environ.get('TORCHELASTIC_ERROR_FILE')  # LAUNCH/attempt_N/RANK/error.json
    return Path(error_file).parents[2] if error_file else None


def note_end(code: int, last: str) -> None:
    """Exit code and last line of the first process that ends, for tools/torchrun.py."""
    if launch_dir():
        try:
            with open(Path(os.environ['TORCHELASTIC_ERROR_FILE']).parents[1] / 'end', 'x') as file:
                file.write(f'{code}\n{last}')
        except OSError:  # another process came first, or the disk is full
            pass


def _end_restarts() -> None:
    """Before an exit by an error that would only come again: end torchrun, if it would start this process anew."""
    folder, wait = launch_dir(), 3.0  # seconds in which torchrun ends; an exit before would start all anew
    if folder is None or int(os.environ['TORCHELASTIC_MAX_RESTARTS']) == 0:
        return
    try:
        (folder / 'ended').touch(exist_ok=False)
    except FileExistsError:  # another process of this machine ends torchrun
        time.sleep(wait)
        return
    time.sleep(wait / 3)  # the others, the main process among them, have the same error and report it
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(wait)


def _end_with_launcher() -> None:
    """When torchrun is gone, end as by SIGTERM, or after two minutes at once."""
    if not launch_dir():
        return
    launcher = int(os.environ.get('BEIT_MM_LAUNCHER', os.getppid()))

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(120)
        os._exit(128 + signal.SIGTERM)

    wake_with_parent()
    threading.Thread(target=watch, daemon=True).start()


def wake_with_parent() -> None:
    """When the parent process is gone, let this one go on if it was stopped (SIGSTOP), so that it ends, too."""
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(1, signal.SIGCONT)  # PR_SET_PDEATHSIG


def _leave(code: int, is_shared: bool = False) -> None:
    """End the process; one of several at once, as leaving the group in order would wait for the others.

    The interpreter's shutdown aborted 3 of 51 gloo runs in torch's own threads, which torchrun takes for a failure.
    """
    if is_shared or dist.is_initialized() and dist.get_world_size() > 1:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
