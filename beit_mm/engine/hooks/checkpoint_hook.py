"""MMEngine's checkpoint hook with files that a kill, a full disk or a flipped bit cannot lose."""

import inspect
import logging
import os
import re
from collections import deque
from collections.abc import Collection, Iterator
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from torch import Tensor

from beit_mm.checkpoint.files import (
    BACKEND,
    is_template,
    list_checkpoints,
    name_pattern,
    POINTER,
    read_pointer,
    remove_partial,
    STEPS,
    write_pointer,
)
from beit_mm.engine.optimizers.autocast_wrapper import NotFinite
from beit_mm.engine.runners.resuming import average_gradients
from beit_mm.errors import UserError
from beit_mm.models.inspection import unwrap
from beit_mm.registry import HOOKS
from beit_mm.text import show

from .report_hook import timed

MIN_KEPT = 2  # the newest may turn out to be damaged
STOP_CHECKPOINTS = 'stop_ckpts'  # names of files, in MMEngine's message hub, which is saved in every checkpoint


@HOOKS.register_module()
class VerifiedCheckpointHook(CheckpointHook):
    """CheckpointHook that verifies a new checkpoint before it deletes the oldest one.

    It writes a temporary file, verifies and renames it, and moves the pointer. Weights that are not finite are not
    saved. A new best score writes the best checkpoint alone; MMEngine's hook writes a regular one, too. From a resumed
    checkpoint it takes only names of files: it deletes files of these names in its own folder, never links or folders.

    Args:
        max_keep_ckpts: how many checkpoints to keep, at least two; -1 for all.
        **kwargs: of MMEngine's CheckpointHook, except backend_args and file_client_args: files are local.

    Raises:
        TypeError: If an argument is unknown, which MMEngine's ignores.
        UserError: If out_dir is no local folder, or filename_tmpl no file name with the number in digits.
    """

    def __init__(self, *args, max_keep_ckpts: int = -1, **kwargs):
        known = inspect.signature(CheckpointHook).parameters.keys() - {'kwargs', 'backend_args', 'file_client_args'}
        for name in kwargs.keys() - known:
            raise TypeError(f'{type(self).__name__} got an unexpected keyword argument {name!r}')
        if max_keep_ckpts > 0:
            max_keep_ckpts = max(max_keep_ckpts, MIN_KEPT)
        super().__init__(*args, max_keep_ckpts=max_keep_ckpts, backend_args=dict(backend=BACKEND), **kwargs)
        if '://' in str(self.out_dir):
            raise UserError(f'out_dir must be a folder of this machine or a mounted one, got {self.out_dir}')
        if not is_template(self.filename_tmpl):
            wanted = 'a file name with the number in digits, such as epoch_{}.pth'
            raise UserError(f'filename_tmpl must be {wanted}, got {self.filename_tmpl!r}')
        pattern = name_pattern(self.filename_tmpl)
        self._own_names = f'{name_pattern(STEPS)}|{pattern}|best_.+_{pattern}'
        self._last_saved: dict[str, int] | None = None  # epochs and iterations in the last regular checkpoint or stop
        self._progress: dict[str, int] = {}  # in the one that is being written
        self._saves_best = False

    def before_train(self, runner) -> None:
        info = runner.message_hub.runtime_info  # of the checkpoint, when a run is resumed
        _keep_numbers(info)
        runner.logger.addFilter(_is_news)
        super().before_train(runner)  # reads it, and sets out_dir
        self._keep_own_names(info)
        self._last_saved = None  # of an earlier training in this process
        if is_main_process():
            remove_partial(Path(self.out_dir))
            self._release()
            if not runner.iter:
                self._name_earlier(runner)

    def _keep_own_names(self, info: dict) -> None:
        """Of the files that a checkpoint names, keep only names of this run's files."""
        if STOP_CHECKPOINTS in info:
            stops = map(self._own_name, info[STOP_CHECKPOINTS] if isinstance(info[STOP_CHECKPOINTS], list) else [])
            info[STOP_CHECKPOINTS] = [name for name in stops if name and re.fullmatch(name_pattern(STEPS), name)]
        for key in [key for key in info if re.match('best_ckpt(_|$)', str(key))]:
            name = self._own_name(info[key])
            info[key] = name and self.file_backend.join_path(self.out_dir, name)
        if hasattr(self, 'best_ckpt_path'):
            self.best_ckpt_path = info.get('best_ckpt')
        for score in getattr(self, 'best_ckpt_path_dict', ()):
            self.best_ckpt_path_dict[score] = info.get(f'best_ckpt_{score}')

    def _name_earlier(self, runner) -> None:
        """Warn of checkpoints in the folder of a new training, which continues none of them and may replace some."""
        numbered = [list_checkpoints(Path(self.out_dir), template) for template in (self.filename_tmpl, STEPS)]
        names = sorted({path.name for paths in numbered for path in paths.values()}, key=lambda name: (len(name), name))
        pointed = read_pointer(Path(runner.work_dir), Path(self.out_dir))
        if names or pointed:
            listed = names if len(names) < 6 else [*names[:2], '...', *names[-2:]]
            runner.logger.warning(
                f'{self.out_dir} holds an earlier run: {", ".join(map(show, listed)) or "no checkpoint"}; {POINTER} '
                f'names {show(pointed and pointed.name)}. This run starts from the beginning and replaces '
                'files of the same name; --resume continues the earlier run, and another work_dir keeps it'
            )

    def _own_name(self, path: object) -> str | None:
        """The name of a file in this run's folder, from a path that may be another run's; None if there is none."""
        name = Path(path).name if isinstance(path, str) else ''
        is_own = re.fullmatch(self._own_names, name) and os.path.isfile(Path(self.out_dir) / name)
        return name if is_own else None

    def after_train(self, runner) -> None:
        """Save the last state of a training that a hook such as EarlyStoppingHook has ended."""
        progress = dict(epoch=runner.epoch, iter=runner.iter)
        if self.save_last and getattr(runner.train_loop, 'stop_training', False) and progress != self._last_saved:
            self._save_checkpoint_with_step(runner, runner.epoch if self.by_epoch else runner.iter, progress)
        super().after_train(runner)

    def _save_checkpoint_with_step(self, runner, step: int, meta: dict) -> None:
        """Write a regular checkpoint. MMEngine calls it when one is due, and again after each new best score."""
        progress = dict(epoch=meta['epoch'], iter=meta['iter'])
        if self._saves_best and progress != self._last_saved:
            return  # no regular one is due; a run that resumes from an older one finds the best score again
        surplus = []
        if self.max_keep_ckpts > 0:
            steps = [other for other in self.keep_ckpt_ids if other != step] + [step]
            surplus = steps[: -self.max_keep_ckpts]
            self.keep_ckpt_ids = deque(steps[-self.max_keep_ckpts :], self.max_keep_ckpts)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        self._write(runner, self.filename_tmpl.format(step), progress, self.by_epoch)
        if is_main_process():
            stops = runner.message_hub.runtime_info.get(STOP_CHECKPOINTS, [])
            numbers = list_checkpoints(Path(self.out_dir), self.filename_tmpl).items()
            regular = {path.name for number, path in numbers if number <= step} - set(stops)  # later: an older run's
            if len(regular) < MIN_KEPT:
                stops = []  # they stay
            elif stops:
                runner.message_hub.update_info(STOP_CHECKPOINTS, [])
            self._release([self.filename_tmpl.format(other) for other in surplus] + stops)

    def save_stop(self, runner, epoch: int, iteration: int) -> str:
        """Save `iter_N.pth` where a run stops, in all processes; it is deleted once two regular ones are written.

        Returns its path, or that of a regular checkpoint that has just been written.
        """
        progress = dict(epoch=epoch, iter=iteration)
        if progress != self._last_saved:
            name = STEPS.format(iteration)
            earlier = runner.message_hub.runtime_info.get(STOP_CHECKPOINTS, [])
            stops = [stop for stop in earlier if stop != name] + [name]
            runner.message_hub.update_info(STOP_CHECKPOINTS, stops[-MIN_KEPT:])
            self._write(runner, name, progress, by_epoch=False)
            if is_main_process():
                self._release(stops[:-MIN_KEPT])
        return self.last_ckpt

    def _write(self, runner, name: str, progress: dict[str, int], by_epoch: bool) -> None:
        """Save the whole run and let `last_checkpoint` name the file."""
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        average_gradients(runner)
        self._progress = progress
        with timed(runner, 'checkpoints'):
            runner.save_checkpoint(
                self.out_dir,
                name,
                save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler,
                meta=dict(progress),
                by_epoch=by_epoch,
                backend_args=self.backend_args,
            )
        self._progress = {}
        self._last_saved = progress
        if is_main_process():
            write_pointer(Path(runner.work_dir), self.last_ckpt)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Raises NotFinite if weights or the optimizer's state are not finite. All other hooks have come before."""
        checkpoint['meta'].update(self._progress)  # FlexibleRunner counts a step that is counted already
        # All buffers except running statistics may be infinite on purpose, as a causal mask is.
        modules = unwrap(runner.model).named_modules(remove_duplicate=False)
        fixed = [(name, module) for name, module in modules if not getattr(module, 'track_running_stats', False)]
        constants = {name for prefix, module in fixed for name, _ in module.named_buffers(prefix, recurse=False)}
        check_finite(checkpoint, constants)

    def _save_best_checkpoint(self, runner, metrics: dict) -> None:
        if self.save_best is None:  # also where a runner validates without a training
            return
        self._progress = dict(epoch=runner.epoch, iter=runner.iter)
        self._saves_best = True
        try:
            with timed(runner, 'checkpoints'):
                super()._save_best_checkpoint(runner, metrics)
        finally:
            self._progress, self._saves_best = {}, False
        if is_main_process():
            self._release()  # the best one before, which MMEngine removes before it writes

    def _release(self, names: Collection[str] = ()) -> None:
        """Delete these files and those that MMEngine's hook has removed, but never the newest and the best."""
        for name in names:
            self.file_backend.remove(name)
        best = [getattr(self, 'best_ckpt_path', None), *getattr(self, 'best_ckpt_path_dict', {}).values()]
        keep = [Path(path).name for path in (self.last_ckpt, *best) if path]
        self.file_backend.release(Path(self.out_dir), self._own_names, keep)


def _is_news(record: logging.LogRecord) -> bool:
    """Not MMEngine's warnings of its own FileClient, which it builds for each checkpoint though nothing uses it."""
    return not re.match('"(FileClient|HardDiskBackend)" ', record.getMessage())


def _keep_numbers(info: dict) -> None:
    """Of what a checkpoint lists as numbers of checkpoints to keep, keep numbers."""
    if 'keep_ckpt_ids' in info:
        steps = info['keep_ckpt_ids'] if isinstance(info['keep_ckpt_ids'], list) else []
        info['keep_ckpt_ids'] = sorted({step for step in steps if type(step) is int and 0 <= step < 1 << 63})


def check_finite(checkpoint: dict, constants: Collection[str] = ()) -> None:
    """Check that weights, averaged weights and optimizer state of a checkpoint are finite.

    Args:
        checkpoint: as MMEngine's Runner writes it.
        constants: names of weights that may be infinite, but not NaN.

    Raises:
        NotFinite: If a tensor is not finite; names the first.
    """
    for part in ('state_dict', 'ema_state_dict', 'optimizer'):
        for name, value in _walk_tensors(checkpoint.get(part), ''):
            # The sum takes a sixth of the time of the exact test below, but it may overflow.
            if not value.is_floating_point() or value.sum().isfinite():
                continue
            may_be_infinite = name[1:].removeprefix('module.') in constants
            if value.isnan().any() or (value.isinf().any() and not may_be_infinite):
                raise NotFinite(f'{part}{name} is not finite')


def _walk_tensors(value: object, name: str) -> Iterator[tuple[str, Tensor]]:
    """Names such as '.a.0' and tensors of a tree of dicts and lists."""
    if isinstance(value, Tensor):
        yield name, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    for key, item in items:
        yield from _walk_tensors(item, f'{name}.{key}')
