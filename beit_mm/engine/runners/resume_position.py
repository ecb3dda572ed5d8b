"""Where a checkpoint's run stood among its samples, and how a run of another size goes on from there."""

import torch.distributed as dist
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from torch import Tensor
from torch.distributed.tensor import DTensor

from beit_mm.registry import SCOPE

from .unwrapping import unwrap

POSITION = f'{SCOPE}_position'
GRADIENTS = f'{SCOPE}_gradients'


class ResumePositionHook(Hook):
    """Writes into checkpoints how the run shares out its samples, and compares when one is resumed.

    EpochTrainLoop and IterTrainLoop register it. Gradients of an update that is not complete are saved and put back.

    Args:
        loop: the training loop, with `dataloader`, `sampler` and `batch_size`.
        allow_change: whether a run with other processes or images per step may go on, at the same sample.
    """

    def __init__(self, loop, allow_change: bool):
        self.loop = loop
        self.allow_change = allow_change
        self.gradients: dict[str, Tensor] = {}

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        checkpoint['meta'][POSITION] = self._position()
        if is_between_updates(runner):
            parameters = unwrap(runner.model).named_parameters()
            checkpoint[GRADIENTS] = {
                name: parameter.grad.cpu() for name, parameter in parameters if parameter.grad is not None
            }

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Raises ValueError if the run shares out its samples otherwise than the checkpoint's and may not."""
        if not runner._resume:
            return
        self.gradients = checkpoint.get(GRADIENTS, {})
        old, new = checkpoint['meta'].get(POSITION), self._position()
        if old is None or old == new:
            return
        told = f'the checkpoint is of {_in_words(old)}, this run has {_in_words(new)}'
        if not self.allow_change:
            raise ValueError(f'{told}; train_cfg.allow_world_size_change=True resumes at the same sample')
        if None in (old['batches_per_epoch'], new['batches_per_epoch']):
            if _per_step(old) != _per_step(new):
                raise ValueError(
                    f'{told}; a run that counts iterations needs the same {_per_step(old)} images per step'
                )
        else:
            _move(runner, checkpoint, old, new)
        runner.logger.warning(f'{told}: it goes on at iteration {checkpoint["meta"]["iter"]}')

    def before_train(self, runner) -> None:
        for name, parameter in unwrap(runner.model).named_parameters():
            if name in self.gradients:
                parameter.grad = self.gradients[name].to(parameter)
        self.gradients = {}

    def _position(self) -> dict[str, int | None]:
        endless = self.loop.sampler.endless
        return dict(
            world_size=get_world_size(),
            batch_size=self.loop.batch_size,
            batches_per_epoch=None if endless else len(self.loop.dataloader),
        )


def is_between_updates(runner) -> bool:
    """Whether some of the steps of an update, but not all, are done; so too after a last update of fewer steps."""
    wrapper = runner.optim_wrapper
    return hasattr(wrapper, '_inner_count') and wrapper._inner_count % wrapper._accumulative_counts != 0


def average_gradients(runner) -> None:
    """Before a checkpoint between two updates, in all processes: make the gradients of all the same, so that one file
    holds them. The update averages them over the processes in any case.
    """
    if not is_between_updates(runner) or get_world_size() == 1:
        return
    for parameter in unwrap(runner.model).parameters():
        if parameter.grad is not None and not isinstance(parameter.grad, DTensor):  # shards are averaged already
            dist.all_reduce(parameter.grad)
            parameter.grad /= get_world_size()


def _move(runner, checkpoint: dict, old: dict, new: dict) -> None:
    """Iteration and schedules of the checkpoint in steps of the new size; less than one step may be done again.

    The schedules run anew from their beginning, since each value follows from the one before it.
    """
    meta = checkpoint['meta']
    begun = meta['iter'] - meta['epoch'] * old['batches_per_epoch']
    begun = min(begun * _per_step(old) // _per_step(new), new['batches_per_epoch'])
    meta['iter'] = meta['epoch'] * new['batches_per_epoch'] + begun
    schedulers = runner.param_schedulers or []
    for step in range(1, meta['iter'] + 1):
        epochs, rest = divmod(step, new['batches_per_epoch'])
        for scheduler in schedulers:
            if not scheduler.by_epoch or rest == 0 and epochs <= meta['epoch']:
                scheduler.step()
    checkpoint['param_schedulers'] = [scheduler.state_dict() for scheduler in schedulers]
    for loaded, group in zip(checkpoint['optimizer']['param_groups'], runner.optim_wrapper.param_groups):
        loaded.update({scheduler.param_name: group[scheduler.param_name] for scheduler in schedulers})


def _per_step(position: dict) -> int:
    return position['world_size'] * position['batch_size']


def _in_words(position: dict) -> str:
    words = f'{position["world_size"]} processes with {position["batch_size"]} images each'
    batches = position['batches_per_epoch']
    return words if batches is None else f'{words} and {batches} steps an epoch'
