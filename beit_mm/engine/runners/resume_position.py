"""Where a checkpoint stands among the samples, and how a run of another size goes on from there."""

import torch.distributed as dist
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict
from torch import Tensor
from torch.distributed.tensor import DTensor

from beit_mm.errors import UserError
from beit_mm.models.inspection import unwrap
from beit_mm.registry import SCOPE

POSITION = f'{SCOPE}_position'
GRADIENTS = f'{SCOPE}_gradients'


class ResumePositionHook(Hook):
    """Saves how a run divides its samples into steps, and compares that when a checkpoint is resumed.

    EpochTrainLoop and IterTrainLoop register it. It also saves and restores the gradients of an incomplete update.

    Args:
        loop: the training loop, with `dataloader`, `sampler` and `batch_size`.
        allow_change: whether a run with another number of processes or images per step may go on, at the same sample.
    """

    def __init__(self, loop, allow_change: bool):
        self.loop = loop
        self.allow_change = allow_change
        self.gradients: dict[str, Tensor] = {}

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        checkpoint['meta'][POSITION] = self._position()
        if is_between_updates(runner):
            parameters = unwrap(runner.model).named_parameters()
            checkpoint[GRADIENTS] = {name: p.grad.cpu() for name, p in parameters if p.grad is not None}

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Raises UserError if the run divides its samples in another way than the checkpoint's, and may not."""
        if not runner._resume:
            return
        self.gradients = checkpoint.get(GRADIENTS, {})
        old, new = checkpoint['meta'].get(POSITION), self._position()
        if old is None or old == new:
            return
        message = f'the checkpoint is of {_describe(old)}, this run has {_describe(new)}'
        if not self.allow_change:
            raise UserError(f'{message}; train_cfg.allow_world_size_change=True resumes at the same sample')
        if old['batches_per_epoch'] is not None and new['batches_per_epoch'] is not None:
            _convert_progress(runner, checkpoint, old, new)
        elif _images_per_step(old) != _images_per_step(new):
            raise UserError(
                f'{message}; a run that counts iterations needs the same {_images_per_step(old)} images per step'
            )
        runner.logger.warning(f'{message}: it goes on at iteration {checkpoint["meta"]["iter"]}')

    def before_train(self, runner) -> None:
        for name, parameter in unwrap(runner.model).named_parameters():
            if name in self.gradients:
                parameter.grad = self.gradients[name].to(parameter)
        self.gradients = {}

    def _position(self) -> dict[str, int | None]:
        return dict(
            world_size=get_world_size(),
            batch_size=self.loop.batch_size,
            batches_per_epoch=None if self.loop.sampler.endless else len(self.loop.dataloader),
        )


def is_between_updates(runner) -> bool:
    """Whether gradients of an update have been accumulated, but not yet those of all its steps."""
    wrapper = runner.optim_wrapper
    return not isinstance(wrapper, OptimWrapperDict) and not wrapper.should_update()


def average_gradients(runner) -> None:
    """Average incomplete gradients over all processes, so that a checkpoint of one process holds those of all.

    The update would average them in any case. Call it in all processes before a checkpoint.
    """
    if not is_between_updates(runner) or get_world_size() == 1:
        return
    for parameter in unwrap(runner.model).parameters():
        if parameter.grad is not None and not isinstance(parameter.grad, DTensor):  # shards are averaged already
            dist.all_reduce(parameter.grad)
            parameter.grad /= get_world_size()


def _convert_progress(runner, checkpoint: dict, old: dict, new: dict) -> None:
    """Convert iteration and schedules of a checkpoint to steps of the new size; part of a step may be repeated.

    The schedules step again from their start, as each value follows from the one before.
    """
    meta = checkpoint['meta']
    old_steps = meta['iter'] - meta['epoch'] * old['batches_per_epoch']  # in the current epoch
    new_steps = min(old_steps * _images_per_step(old) // _images_per_step(new), new['batches_per_epoch'])
    meta['iter'] = meta['epoch'] * new['batches_per_epoch'] + new_steps
    schedulers = runner.param_schedulers or []
    for step in range(1, meta['iter'] + 1):
        epochs, rest = divmod(step, new['batches_per_epoch'])
        for scheduler in schedulers:
            if not scheduler.by_epoch or (rest == 0 and epochs <= meta['epoch']):
                scheduler.step()
    checkpoint['param_schedulers'] = [scheduler.state_dict() for scheduler in schedulers]
    for loaded, group in zip(checkpoint['optimizer']['param_groups'], runner.optim_wrapper.param_groups):
        loaded.update({scheduler.param_name: group[scheduler.param_name] for scheduler in schedulers})


def _images_per_step(position: dict) -> int:
    return position['world_size'] * position['batch_size']


def _describe(position: dict) -> str:
    words = f'{position["world_size"]} processes with {position["batch_size"]} images each'
    batches = position['batches_per_epoch']
    return words if batches is None else f'{words} and {batches} steps an epoch'
