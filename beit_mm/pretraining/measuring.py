"""Seconds of a training step of a config on this machine: a few real steps, with the loader."""

import time
from argparse import Namespace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from mmengine.dist import broadcast, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner

from beit_mm.checks.small_parts import pretend_to_be_trained
from beit_mm.config.parts import drop_pretrained
from beit_mm.engine.runners.launch import prepare_config
from beit_mm.errors import describe_shortage

WARM_UP = 3  # steps: loaders start, and their first batches are ready before they are asked for
KEPT_HOOKS = ('runtime_info', 'timer', 'logger', 'param_scheduler', 'sampler_seed')


class StepTimer(Hook):
    """Ends a training after some seconds, by the first process' clock; `seconds` is the time of a step."""

    priority = 'LOWEST'

    def __init__(self, limit: float):
        self.limit, self.times = limit, []

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append(time.monotonic())
        is_over = torch.tensor(len(self.times) > WARM_UP and self.times[-1] - self.times[0] > self.limit)
        if get_world_size() > 1:
            broadcast(is_over := is_over.to(next(runner.model.parameters()).device, torch.int32))
        runner.train_loop.stop_training = bool(is_over)

    @property
    def seconds(self) -> float:
        return (self.times[-1] - self.times[WARM_UP - 1]) / (len(self.times) - WARM_UP)


def measure_step(config: str, limit: float, launcher: str) -> float:
    """Seconds of a step, the mean of the steps in about `limit` seconds; infinite if memory is too small.

    Args:
        config: the text of a config with an IterTrainLoop.
        limit: seconds.
        launcher: as of tools/train.py.
    """
    with TemporaryDirectory(prefix='beit_mm_', ignore_cleanup_errors=True) as folder:  # workers may write still
        path = Path(folder, 'measured.py')
        path.write_text(config, encoding='utf-8')
        cfg = prepare_config(Namespace(config=str(path), cfg_options=None, work_dir=folder, launcher=launcher))
        drop_pretrained(cfg.model)
        cfg.default_hooks = {name: hook for name, hook in cfg.default_hooks.items() if name in KEPT_HOOKS}
        cfg.default_hooks['checkpoint'] = None
        cfg.custom_hooks = [hook for hook in cfg.get('custom_hooks') or () if 'KNN' not in hook['type']]
        cfg.visualizer, cfg.log_level = None, 'ERROR'
        cfg.experiment_name = Path(folder).name  # MMEngine gives Runners of one name and second one visualizer
        runner = Runner.from_cfg(cfg)
        runner.is_checked = True  # the training checks the config
        timer = StepTimer(limit)
        runner.register_hook(timer)
        pretend_to_be_trained(runner.model)
        try:
            runner.train()
        except Exception as error:
            if describe_shortage(error) is None:
                raise
            return float('inf')
        return timer.seconds
