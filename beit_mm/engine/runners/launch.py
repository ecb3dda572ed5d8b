"""From a config and command-line arguments to a training or a test, on any number of processes, with or without GPU."""

import json
import logging
import os
import re
import signal
import sys
import tempfile
import time
import traceback
from argparse import Namespace
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
from mmengine.config import Config, ConfigDict
from mmengine.dist import is_main_process
from mmengine.evaluator import DumpResults
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from beit_mm.checkpoint.files import find_newest, stamp_checkpoints
from beit_mm.checks import check_before_training, check_checkpoint, check_data
from beit_mm.config.flatten import drop_scope_stamps
from beit_mm.config.parts import drop_left_out, drop_pretrained, use_plain_batch_norm
from beit_mm.config.reading import read_config, unread_options
from beit_mm.engine.hooks.check_weights_hook import CheckWeightsHook
from beit_mm.errors import describe_shortage, OutOfMemory, TrainingStopped, UserError
from beit_mm.files import atomic_write, hold
from beit_mm.models.weights import WeightsMismatch
from beit_mm.text import show

# Mistakes in code, not in a config or a file.
BUGS = AttributeError, AssertionError, IndexError, KeyError, NameError, TypeError
# Environment variables in which launchers say how many processes they started.
WORLD_SIZES = dict(pytorch='WORLD_SIZE', slurm='SLURM_NTASKS', mpi='OMPI_COMM_WORLD_SIZE')
RANKS = dict(pytorch='RANK', slurm='SLURM_PROCID', mpi='OMPI_COMM_WORLD_RANK')


def train(args: Namespace) -> None:
    """Train as the arguments of tools/train.py say."""
    cfg = _load_config(args)
    if cfg.get('train_dataloader') is None:
        raise UserError(f'{args.config} has no train_dataloader, so there is nothing to train on')
    args.work_dir = None  # for a traceback, until no other run holds it
    with hold(Path(cfg.work_dir)) if int(os.environ.get(RANKS.get(cfg.launcher, ''), 0)) == 0 else nullcontext():
        args.work_dir = cfg.work_dir
        _train(args, cfg)


def _train(args: Namespace, cfg: Config) -> None:
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    _set_resume(cfg, args.resume)
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise UserError('--auto-scale-lr needs auto_scale_lr.base_batch_size in the config, got none')
        cfg.auto_scale_lr.enable = True
    warnings = check_before_training(cfg, int(os.environ.get(WORLD_SIZES.get(cfg.launcher, ''), 1)), args.cfg_options)
    runner = _build_runner(cfg, 'resume' if cfg.get('resume') else 'train')
    runner.is_checked = True  # for the training loop, see beit_mm.checks.check_runner
    for warning in warnings:
        runner.logger.warning(str(warning))
    _explain(cfg, runner, runner.train)


def test(args: Namespace) -> None:
    """Evaluate as the arguments of tools/test.py say."""
    cfg = _load_config(args)
    if cfg.get('test_dataloader') is None:
        raise UserError(f'{args.config} has no test_dataloader, so there is nothing to test on')
    cfg.load_from, cfg.resume = args.checkpoint, False
    is_mmseg = cfg.default_scope == 'mmseg'
    if args.show_dir is not None:
        if 'visualization' not in cfg.default_hooks:
            raise UserError('--show-dir needs default_hooks.visualization in the config, got none')
        cfg.default_hooks.visualization.update(
            {'draw': True} if is_mmseg else {'enable': True, 'out_dir': args.show_dir}
        )
        cfg.visualizer.save_dir = args.show_dir
    if args.tta:
        if 'tta_model' not in cfg or 'tta_pipeline' not in cfg:
            raise UserError('--tta needs tta_model and tta_pipeline in the config')
        cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
        cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    # As in the hosts' tools: a folder of label maps in MMSegmentation, a file of all predictions in MMPretrain.
    if args.out is not None and is_mmseg:
        cfg.test_evaluator.update(output_dir=args.out, keep_results=True)
    check_data(cfg, ('test_dataloader',))
    check_checkpoint('CHECKPOINT', args.checkpoint)
    runner = _build_runner(cfg, 'test')
    for key, sentence in unread_options(cfg, args.cfg_options).items():
        runner.logger.warning(f'{key} {sentence}')
    if args.out is not None and not is_mmseg:
        runner.test_evaluator.metrics.append(DumpResults(out_file_path=args.out))
    _explain(cfg, runner, runner.test)


def _load_config(args: Namespace) -> Config:
    """The config file with what all tools' arguments change in it, fit for this machine."""
    cfg = read_config(args.config, args.cfg_options)
    if cfg.get('model') is None:
        raise UserError(f'{args.config} has no model')
    drop_scope_stamps(cfg)
    drop_left_out(cfg)
    cfg.launcher = args.launcher
    # As in the hosts' tools: argument, then config, then the config's name.
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or str(Path('work_dirs') / Path(args.config).stem)
    args.work_dir = cfg.work_dir
    try:
        Path(cfg.work_dir).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cfg.work_dir):
            pass
    except OSError as error:
        where = f'the work directory {cfg.work_dir} cannot be written to'
        raise OSError(f'{where}: {error.strerror}; name another with --work-dir') from error
    if not torch.cuda.is_available():
        # Processes talk by gloo, DDP gets no device, and synchronised batch norm, which has no CPU code, is the plain
        # one, whose running statistics are then each process's own.
        use_plain_batch_norm(cfg.model)
        if cfg.launcher == 'pytorch':
            cfg.model_wrapper_cfg = dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False)
            if not dist.is_initialized():  # before the Runner, which would ask for a GPU
                dist.init_process_group('gloo')
        elif cfg.launcher != 'none':
            raise UserError(f"--launcher must be 'none' or 'pytorch' on a machine without GPU, got {cfg.launcher!r}")
    return cfg


def _set_resume(cfg: Config, resume: str | None) -> None:
    """Resume from a checkpoint, or for 'auto' from the newest one that is whole, if there is any. After a restart by
    torchrun, from the newest that this launch has written.
    """
    if resume is None and cfg.get('resume') and not cfg.get('load_from'):
        resume = 'auto'  # MMEngine's own way would not verify the checkpoint
    work_dir = Path(cfg.work_dir)
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    launch_dir = _launch_dir()
    note = launch_dir and launch_dir / 'checkpoints.json'  # which checkpoints were there at the start
    if int(os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)) == 0:
        if note:
            with atomic_write(note) as temporary:
                temporary.write_text(json.dumps(stamp_checkpoints(work_dir, hook)))
    elif resume != 'auto' and note and note.is_file():
        newest = find_newest(work_dir, hook, json.loads(note.read_text()))
        resume = str(newest) if newest else resume
    if resume == 'auto':
        newest = find_newest(work_dir, hook)
        if newest is None:
            others = ', '.join(show(path.name) for path in sorted(work_dir.glob('*.pth'))[:5])
            print(f'nothing to resume in {cfg.work_dir}{others and f", only {others}"}: a new training')
        resume = newest and str(newest)
    if resume is None:
        return
    check_checkpoint('--resume', resume)
    cfg.resume, cfg.load_from = True, resume
    drop_pretrained(cfg.model)  # all weights are in the checkpoint


def _launch_dir() -> Path | None:
    """Torchrun's folder of this launch on this machine; None without torchrun."""
    error_file = os.environ.get('TORCHELASTIC_ERROR_FILE')  # LAUNCH/attempt_N/RANK/error.json
    return Path(error_file).parents[2] if error_file else None


def _build_runner(cfg: Config, purpose: str) -> Runner:
    runner = Runner.from_cfg(cfg) if 'runner_type' not in cfg else RUNNERS.build(cfg)
    runner.register_hook(CheckWeightsHook(purpose))
    return runner


def _explain(cfg: Config, runner: Runner, job: Callable[[], object]) -> None:
    """Run a job of a runner. Errors about weights name their file, errors about memory say what to change."""
    try:
        job()
    except WeightsMismatch as error:
        raise UserError(f'{cfg.load_from}: {error}') from error
    except BaseException as error:
        stage = runner.message_hub.runtime_info.get('loop_stage', 'train')
        advice = _advise_on_memory(cfg, stage, error) if isinstance(error, RuntimeError) else None
        explained = OutOfMemory(advice) if advice else error
        runner.call_hook('on_exception', error=explained)
        if advice:
            raise explained from error
        raise


def _advise_on_memory(cfg: Config, stage: str, error: RuntimeError) -> str | None:
    """Which options need less memory, the cheapest first; None for an error that is not about memory."""
    if worker := re.search(r'DataLoader worker \(pid.*?(?:signal: .*?\.|unexpectedly)', str(error)):
        return (
            f'{worker[0].rstrip(".")}: the system ends processes when memory runs out; fewer workers need less: '
            f'{stage}_dataloader.num_workers is {cfg[f"{stage}_dataloader"].get("num_workers", 0)}'
        )
    shortage = describe_shortage(error)
    if shortage is None:
        return None
    batch, options = f'{stage}_dataloader.batch_size', []
    batch_size = cfg[f'{stage}_dataloader'].batch_size
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


def run(job: Callable[[Namespace], None], args: Namespace) -> None:
    """Run a job. Errors end in exit code 1 with one sentence if the user can fix them, else with their traceback, which
    is always written to a file. A training that a signal stopped ends with exit code 0.
    """
    try:
        job(args)
    except TrainingStopped:
        pass  # the log says where it goes on
    except Exception as error:
        *_, (last, _) = traceback.walk_tb(error.__traceback__)
        is_ours = isinstance(error, ValueError) and last.f_globals.get('__name__', '').startswith('beit_mm.')
        is_known = is_ours or isinstance(error, (UserError, OutOfMemory, OSError, ImportError))
        _report(error, args.work_dir, is_known)
        if is_known and (isinstance(error, FileNotFoundError) or not isinstance(error, OSError)):
            _end_restarts()  # not for another OSError, which may be temporary
        _leave(1)
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
        _leave(0, is_shared=True)


def _report(error: Exception, work_dir: str | None, is_known: bool) -> None:
    """Say what happened on standard error, and write the traceback to a file."""
    text = traceback.format_exc()
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # A loader's worker sends its whole traceback as the message; the sentence comes last.
    print(f'error: {lines[-1]}' if is_known else text, file=sys.stderr)
    if isinstance(error, BUGS) and not is_known:
        print('This is a bug of beit_mm or of a part in your config.', file=sys.stderr)
    if is_main_process():
        _write_traceback(text, work_dir)


def _write_traceback(text: str, folder: str | None) -> None:
    """Write a traceback to a folder; to a temporary one if there is none or it cannot be written to."""
    try:
        path = Path(folder or tempfile.mkdtemp(prefix='beit_mm_')) / 'traceback.txt'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        print(f'(traceback in {path})', file=sys.stderr)
    except OSError:
        if folder:  # else the whole disk is full
            _write_traceback(text, None)


def _end_restarts() -> None:
    """Before an exit by an error that would only come again: end torchrun, if it would start this process anew."""
    folder, wait = _launch_dir(), 3.0  # seconds in which torchrun ends; an exit before would start all anew
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
