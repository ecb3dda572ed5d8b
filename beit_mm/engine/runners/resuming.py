"""The position of a run in its data: saved, and when the run is resumed compared and logged with the other settings."""

import logging
from collections.abc import Iterator

import torch.distributed as dist
from mmengine.dist import get_world_size
from mmengine.hooks import EarlyStoppingHook, Hook
from mmengine.optim import OptimWrapperDict
from mmengine.runner import EpochBasedTrainLoop
from torch import Tensor
from torch.distributed.tensor import distribute_tensor, DTensor

from beit_mm.errors import UserError
from beit_mm.models.inspection import unwrap
from beit_mm.registry import SCOPE

from .resume_settings import (
    can_rebuild,
    check_groups,
    compare_settings,
    draw_table,
    list_settings,
    rebuild_schedules,
    schedules_differ,
)

# Keys in a checkpoint
POSITION, SETTINGS, GRADIENTS = f'{SCOPE}_position', f'{SCOPE}_settings', f'{SCOPE}_gradients'
VALIDATED, STOPPERS, IMAGES = f'{SCOPE}_validated', f'{SCOPE}_early_stopping', f'{SCOPE}_images'


class ResumePositionHook(Hook):
    """Saves how a run divides its samples into steps, and compares that when a checkpoint is resumed.

    It also saves and restores the gradients of an incomplete update and the counts of EarlyStoppingHooks, fits
    schedules to the config's, and logs which settings differ and which of them apply. Checkpoints are written before
    the validation of the same step, so a resumed run begins with that.

    Args:
        loop: the training loop, which registers this hook.
        allow_change: whether a run that divides its samples in another way may go on, at the same sample.
    """

    priority = 'LOWEST'  # what it starts with may be a validation

    def __init__(self, loop, allow_change: bool):
        self.loop, self.allow_change = loop, allow_change
        self.world_size = get_world_size()
        self.gradients: dict[str, Tensor] = {}
        self.validated = 0  # iterations of the training before its last validation

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        counts = [[hook.wait_count, float(hook.best_score)] for hook in _stoppers(runner)]
        own = {POSITION: self._position(), SETTINGS: list_settings(runner.cfg), VALIDATED: self.validated}
        checkpoint['meta'].update(own, **{STOPPERS: counts, IMAGES: len(self.loop.dataloader.dataset)})
        if is_between_updates(runner):
            parameters = unwrap(runner.model).named_parameters()
            checkpoint[GRADIENTS] = {name: p.grad.cpu() for name, p in parameters if p.grad is not None}

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Raises UserError if the file holds no run, if the run divides its samples in another way than the
        checkpoint's, and may not, or if the state of the optimizer does not fit.
        """
        if not runner._resume:
            return
        meta = checkpoint.get('meta')
        counts = [meta.get(unit) for unit in ('epoch', 'iter')] if isinstance(meta, dict) else [None]
        if 'message_hub' not in checkpoint or not all(type(count) is int and count >= 0 for count in counts):
            raise UserError(f'{runner._load_from} holds weights, but no run to resume; start from them with load_from')
        self.gradients = checkpoint.get(GRADIENTS, {})
        new, notes = self._position(), []
        old, iteration = meta.get(POSITION) or new, meta['iter']
        rows = compare_settings(runner, checkpoint, meta[SETTINGS]) if SETTINGS in meta else []
        check_groups(runner, checkpoint)
        self.validated = iteration if meta.get(VALIDATED, iteration) == iteration else -1
        notes += self._restore_counts(runner, meta)
        if old != new:
            notes.append(self._convert_position(runner, checkpoint, old, new))
        if 'optimizer' not in checkpoint:  # a best checkpoint, or save_optimizer=False
            checkpoint['optimizer'] = runner.optim_wrapper.state_dict()
            notes.append("It holds no state of the optimizer: the config's rates apply, and moments begin at zero.")
        if meta['iter'] >= runner.max_iters:
            notes.append(f'The run is complete after {runner.max_iters} iterations: nothing is left to train.')
        elif can_rebuild(runner):
            is_new = schedules_differ(runner, checkpoint)
            if is_new or (iteration, old['batches_per_epoch']) != (meta['iter'], new['batches_per_epoch']):
                rebuild_schedules(runner, checkpoint, new['batches_per_epoch'])
            if is_new:
                notes.append("Its schedules go on as if they had always been the config's.")
        self._report(runner, meta, rows, notes)

    def _restore_counts(self, runner, meta: dict) -> Iterator[str]:
        """What the EarlyStoppingHooks have counted; says what differs."""
        counts, stoppers = meta.get(STOPPERS), _stoppers(runner)
        if isinstance(counts, list) and len(counts) == len(stoppers):
            for hook, (wait_count, best_score) in zip(stoppers, counts):
                hook.wait_count, hook.best_score = int(wait_count), float(best_score)
        elif stoppers:
            yield 'EarlyStoppingHook counts from now on.'
        was, now = meta.get(IMAGES), len(self.loop.dataloader.dataset)
        if was not in (None, now):
            yield f'The training set has {now} images, it had {was}: they come in another order.'

    def _report(self, runner, meta: dict, rows: list, notes: list[str]) -> None:
        """Log which settings are the checkpoint's and which the config's."""
        text = f'resuming {runner._load_from} after epoch {meta["epoch"]}, iteration {meta["iter"]}.'
        if SETTINGS not in meta:
            notes.append('It holds no settings to compare with the config.')
        elif not rows:
            notes.append('Its settings are those of the config.')
        else:
            notes.append(f'Settings that differ:\n{draw_table(rows)}')
            if any(applies == 'checkpoint' for *_, applies in rows):
                notes.append('To train with all values of the config, start anew with load_from and without resume.')
        is_news = rows or len(notes) > 1
        runner.logger.log(logging.WARNING if is_news else logging.INFO, '\n'.join([text, *notes]))

    def before_train(self, runner) -> None:
        for name, parameter in unwrap(runner.model).named_parameters():
            if name in self.gradients:
                parameter.grad = shard_like(self.gradients[name].to(parameter.device), parameter)
        self.gradients = {}
        if runner._resume and self.validated != runner.iter and self._is_validation_due(runner):
            runner.val_loop.run()

    def after_val(self, runner) -> None:
        self.validated = runner.iter

    def _is_validation_due(self, runner) -> bool:
        """Whether the loop validates after the step at which the run goes on."""
        loop, by_epoch = self.loop, isinstance(self.loop, EpochBasedTrainLoop)
        done, end = (loop.epoch, loop.max_epochs) if by_epoch else (loop.iter, loop.max_iters)
        loop._decide_current_val_interval()
        is_end_of_epoch = not by_epoch or loop.iter == loop.epoch * len(loop.dataloader)
        is_due = done >= max(loop.val_begin, 1) and (done % loop.val_interval == 0 or done == end)
        return runner.val_loop is not None and is_end_of_epoch and is_due

    def _convert_position(self, runner, checkpoint: dict, old: dict, new: dict) -> str:
        """Count the checkpoint's iterations in steps of the new size; part of a step may be repeated. Says so."""
        message = f'the checkpoint is of {_describe(old)}, this run has {_describe(new)}'
        was, now = checkpoint['meta'].get(IMAGES), len(self.loop.dataloader.dataset)
        if was not in (None, now):
            message += f', since the training set has {now} images and had {was}'
        if not self.allow_change:
            raise UserError(f'{message}; train_cfg.allow_world_size_change=True resumes at the same sample')
        meta, batches = checkpoint['meta'], new['batches_per_epoch']
        if old['batches_per_epoch'] is not None and batches is not None:
            old_steps = meta['iter'] - meta['epoch'] * old['batches_per_epoch']  # in the current epoch
            new_steps = min(old_steps * _step_size(old) // _step_size(new), batches)
            meta['iter'] = meta['epoch'] * batches + new_steps
        elif _step_size(old) != _step_size(new):
            raise UserError(f'{message}; a run that counts iterations needs the same {_step_size(old)} images per step')
        return f'{message}: it goes on at iteration {meta["iter"]}.'

    def _position(self) -> dict[str, int | None]:
        batches = None if self.loop.sampler.endless else len(self.loop.dataloader)
        return dict(world_size=self.world_size, batch_size=self.loop.batch_size, batches_per_epoch=batches)


def _stoppers(runner) -> list[EarlyStoppingHook]:
    return [hook for hook in runner.hooks if isinstance(hook, EarlyStoppingHook)]


def is_between_updates(runner) -> bool:
    """Whether gradients of an update have been accumulated, but not yet those of all its steps."""
    wrapper = runner.optim_wrapper
    return not isinstance(wrapper, OptimWrapperDict) and not wrapper.should_update()


def average_gradients(runner) -> None:
    """Average incomplete gradients over all processes, as the update would, so that one process can save them."""
    if not is_between_updates(runner) or get_world_size() == 1:
        return
    for parameter in unwrap(runner.model).parameters():
        if parameter.grad is not None and not isinstance(parameter.grad, DTensor):  # shards are averaged already
            dist.all_reduce(parameter.grad)
            parameter.grad /= get_world_size()


def shard_like(value, parameter: Tensor):
    """The shard of this process of a tensor, if it has the shape of a parameter in shards; others stay whole."""
    if not isinstance(parameter, DTensor) or getattr(value, 'shape', None) != parameter.shape:
        return value
    mesh, placements = parameter.device_mesh, parameter.placements
    return distribute_tensor(value.to(parameter.device), mesh, placements, src_data_rank=None)


def _step_size(position: dict) -> int:
    """Images per step, over all processes."""
    return position['world_size'] * position['batch_size']


def _describe(position: dict) -> str:
    processes, images = position['world_size'], position['batch_size']
    words = f'{processes} process{"es" * (processes > 1)} with {images} image{"s" * (images > 1)} each'
    batches = position['batches_per_epoch']
    return words if batches is None else f'{words} and {batches} steps an epoch'
