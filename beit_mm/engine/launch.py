"""From a config and command-line arguments to a training or a test, on any number of processes, with or without GPU."""
import sys
import traceback
from argparse import Namespace
from pathlib import Path
from typing import Any, Callable

import torch
import torch.distributed as dist
from mmengine.config import Config, ConfigDict
from mmengine.evaluator import DumpResults
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from .checks import check_checkpoints, check_data


def train(args: Namespace) -> None:
    """Train as the arguments of tools/train.py say."""
    cfg = _load_config(args)
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    if args.resume == 'auto':
        cfg.resume, cfg.load_from = True, None
    elif args.resume is not None:
        cfg.resume, cfg.load_from = True, args.resume
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise ValueError('--auto-scale-lr needs auto_scale_lr.base_batch_size in the config, got none')
        cfg.auto_scale_lr.enable = True
    check_data(cfg, ('train_dataloader', 'val_dataloader'))
    check_checkpoints(cfg)
    _build_runner(cfg).train()


def test(args: Namespace) -> None:
    """Evaluate as the arguments of tools/test.py say."""
    cfg = _load_config(args)
    cfg.load_from, cfg.resume = args.checkpoint, False
    if args.show_dir is not None:
        if 'visualization' not in cfg.default_hooks:
            raise ValueError('--show-dir needs default_hooks.visualization in the config, got none')
        cfg.default_hooks.visualization.update(
            {'draw': True} if cfg.default_scope == 'mmseg' else {'enable': True, 'out_dir': args.show_dir})
        cfg.visualizer.save_dir = args.show_dir
    if args.tta:
        if 'tta_model' not in cfg or 'tta_pipeline' not in cfg:
            raise ValueError('--tta needs tta_model and tta_pipeline in the config')
        cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
        cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    check_data(cfg, ('test_dataloader',))
    if not Path(args.checkpoint).is_file():
        raise FileNotFoundError(f'no checkpoint at {args.checkpoint}')
    runner = _build_runner(cfg)
    if args.out is not None:
        runner.test_evaluator.metrics.append(DumpResults(out_file_path=args.out))
    runner.test()


def _load_config(args: Namespace) -> Config:
    """The config file with what all tools' arguments change in it, fit for this machine."""
    if not Path(args.config).is_file():
        raise FileNotFoundError(f'no config file at {args.config}')
    cfg = Config.fromfile(args.config)
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    cfg.launcher = args.launcher
    # As in the hosts' tools: argument, then config, then the config's name.
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or str(Path('work_dirs') / Path(args.config).stem)
    if not torch.cuda.is_available():
        _adapt_to_cpu(cfg)
    return cfg


def _adapt_to_cpu(cfg: Config) -> None:
    """Without a GPU: processes talk by gloo, DDP gets no device, and synchronised batch norm, which has no CPU code,
    is the plain one."""
    _replace(cfg.model, 'type', 'SyncBN', 'BN')
    if cfg.launcher == 'pytorch':
        cfg.model_wrapper_cfg = dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False)
        if not dist.is_initialized():  # before the Runner, which would ask for a GPU
            dist.init_process_group('gloo')
    elif cfg.launcher != 'none':
        raise ValueError(f"--launcher must be 'none' or 'pytorch' on a machine without GPU, got {cfg.launcher!r}")


def _replace(node: Any, key: str, old: Any, new: Any) -> None:
    for child in _children(node):
        _replace(child, key, old, new)
    if isinstance(node, dict) and node.get(key) == old:
        node[key] = new


def _children(node: Any) -> list:
    if isinstance(node, dict):
        return list(node.values())
    return list(node) if isinstance(node, (list, tuple)) else []


def _build_runner(cfg: Config) -> Runner:
    return Runner.from_cfg(cfg) if 'runner_type' not in cfg else RUNNERS.build(cfg)


def run(job: Callable[[Namespace], None], args: Namespace) -> None:
    """Run a job; what the user can mend ends in one sentence on standard error and exit code 1.

    The traceback goes to a file beside the logs.
    """
    try:
        job(args)
    except (ValueError, FileNotFoundError) as error:
        folder = Path(args.work_dir or Path('work_dirs') / Path(args.config).stem)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / 'traceback.txt').write_text(traceback.format_exc())
        sys.exit(f'error: {error}\n(traceback in {folder / "traceback.txt"})')
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
