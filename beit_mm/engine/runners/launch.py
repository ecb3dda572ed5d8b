"""From a config and command-line arguments to a training or a test, on any number of processes, with or without GPU."""

import json
import os
import re
import tempfile
from argparse import Namespace
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
from mmengine.config import Config, ConfigDict
from mmengine.evaluator import DumpResults
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from beit_mm.checkpoint.files import find_newest, stamp_checkpoints
from beit_mm.checks import check_before_training, check_checkpoint, check_data
from beit_mm.config.flatten import drop_scope_stamps
from beit_mm.config.parts import drop_left_out, drop_pretrained, entries, use_plain_batch_norm, walk
from beit_mm.config.reading import read_config, unread_options
from beit_mm.engine.hooks.check_weights_hook import CheckWeightsHook
from beit_mm.engine.hooks.logging_hooks import DataCountsHook
from beit_mm.errors import UserError
from beit_mm.evaluation import IoUMetric
from beit_mm.files import atomic_write, hold
from beit_mm.text import show

from .ending import explain, launch_dir, TRACEBACK

WRITES_MAPS = re.compile('IoUMetric|CityscapesMetric')  # metrics that take `output_dir`
# Environment variables in which launchers say how many processes they started.
WORLD_SIZES = dict(pytorch='WORLD_SIZE', slurm='SLURM_NTASKS', mpi='OMPI_COMM_WORLD_SIZE')
RANKS = dict(pytorch='RANK', slurm='SLURM_PROCID', mpi='OMPI_COMM_WORLD_RANK')


def train(args: Namespace) -> None:
    """Train as the arguments of tools/train.py say."""
    cfg = prepare_config(args)
    if cfg.get('train_dataloader') is None:
        raise UserError(f'{args.config} has no train_dataloader, so there is nothing to train on')
    args.work_dir = None  # no traceback goes there while another run may hold it
    with hold(Path(cfg.work_dir)) if _is_first(cfg) else nullcontext():
        args.work_dir = cfg.work_dir
        _train(args, cfg)


def _train(args: Namespace, cfg: Config) -> None:
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        for hook in (cfg.get('default_hooks') or {}).values():
            if hook and 'save_best' in hook:
                hook.save_best = None  # there are no scores
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
    explain(cfg, runner, runner.train)


def test(args: Namespace) -> None:
    """Evaluate as the arguments of tools/test.py say."""
    cfg = prepare_config(args)
    if cfg.get('test_dataloader') is None:
        raise UserError(f'{args.config} has no test_dataloader, so there is nothing to test on')
    cfg.load_from, cfg.resume = args.checkpoint, False
    is_mmseg = cfg.default_scope == 'mmseg'
    if args.show_dir is not None:
        hook = (cfg.get('default_hooks') or {}).get('visualization')
        if not hook or not cfg.get('visualizer'):
            raise UserError('--show-dir needs default_hooks.visualization and visualizer in the config, got none')
        every = hook.get('interval', 1)  # MMPretrain's hook draws one of 5,000 by default
        hook.update({'draw': True} if is_mmseg else dict(enable=True, out_dir=args.show_dir, interval=every))
        cfg.visualizer.save_dir = args.show_dir
    if args.tta:
        if 'tta_model' not in cfg or 'tta_pipeline' not in cfg:
            raise UserError('--tta needs tta_model and tta_pipeline in the config')
        cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
        for _, node in walk(cfg.test_dataloader.dataset, ''):  # also in wrappers
            if 'pipeline' in node:
                node['pipeline'] = cfg.tta_pipeline
    if args.out is not None and not is_mmseg and not args.out.endswith(('.pkl', '.pickle')):
        raise UserError(f'--out of a classifier must be a .pkl file, got {args.out}; beit-mm classify writes tables')
    # As in the hosts' tools: a folder of label maps in MMSegmentation, a file of all predictions in MMPretrain.
    if args.out is not None and is_mmseg:
        metrics = [part for _, part in entries(cfg, 'test_evaluator') if WRITES_MAPS.search(str(part.get('type')))]
        if not metrics:
            raise UserError('--out needs an IoUMetric in test_evaluator, which writes label maps, got none')
        metrics[0].update(output_dir=args.out, keep_results=True)
    for key, sentence in unread_options(cfg, args.cfg_options).items():
        raise UserError(f'{key} {sentence}')
    check_data(cfg, ('test_dataloader',))
    check_checkpoint('CHECKPOINT', args.checkpoint)
    runner = _build_runner(cfg, 'test')
    if args.out is not None and not is_mmseg:
        runner.test_evaluator.metrics.append(DumpResults(out_file_path=args.out))
    for metric in runner.test_evaluator.metrics if args.out is not None else ():
        if isinstance(metric, IoUMetric):
            metric.keep_folders(runner.test_dataloader.dataset)
    explain(cfg, runner, runner.test)


def prepare_config(args: Namespace) -> Config:
    """The config file with what all tools' arguments change in it, fit for this machine."""
    cfg = read_config(args.config, args.cfg_options)
    if cfg.get('model') is None:
        raise UserError(f'{args.config} has no model')
    drop_scope_stamps(cfg)
    drop_left_out(cfg)
    cfg.launcher = args.launcher
    if cfg.launcher in RANKS and RANKS[cfg.launcher] not in os.environ:
        starter = 'tools/dist_train.sh and tools/dist_test.sh start' if cfg.launcher == 'pytorch' else 'it starts'
        raise UserError(f'--launcher {cfg.launcher} is for processes that {starter}; leave it out for one process')
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
        for _, node in walk(cfg._cfg_dict, ''):
            if 'pin_memory' in node:
                node['pin_memory'] = False  # torch would warn at every epoch
        if cfg.launcher == 'pytorch':
            cfg.model_wrapper_cfg = dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False)
            if not dist.is_initialized():  # before the Runner, which would ask for a GPU
                dist.init_process_group('gloo')
        elif cfg.launcher != 'none':
            raise UserError(f"--launcher must be 'none' or 'pytorch' on a machine without GPU, got {cfg.launcher!r}")
    return cfg


def _is_first(cfg: Config) -> bool:
    """Whether this is the first process of the run; its group may not exist yet."""
    return int(os.environ.get(RANKS.get(cfg.launcher, ''), 0)) == 0


def _set_resume(cfg: Config, resume: str | None) -> None:
    """Resume from a checkpoint, or for 'auto' from the newest one that is whole, if there is any. After a restart by
    torchrun, from the newest that this launch has written.
    """
    if resume is None and cfg.get('resume') and not cfg.get('load_from'):
        resume = 'auto'  # MMEngine's own way would not verify the checkpoint
    work_dir = Path(cfg.work_dir)
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    folder = launch_dir()
    note = folder and folder / 'checkpoints.json'  # which checkpoints were there at the start
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
            print(f'nothing to resume in {show(cfg.work_dir)}{others and f", only {others}"}: a new training')
        resume = newest and str(newest)
    if resume is None:
        return
    check_checkpoint('--resume', resume)
    cfg.resume, cfg.load_from = True, resume
    drop_pretrained(cfg.model)  # all weights are in the checkpoint


def _build_runner(cfg: Config, purpose: str) -> Runner:
    if _is_first(cfg) and int(os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)) == 0:
        Path(cfg.work_dir, TRACEBACK).unlink(missing_ok=True)  # an earlier run's
    runner = Runner.from_cfg(cfg) if 'runner_type' not in cfg else RUNNERS.build(cfg)
    runner.register_hook(CheckWeightsHook(purpose))
    runner.register_hook(DataCountsHook())
    return runner
