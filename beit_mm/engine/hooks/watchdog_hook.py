"""A training in which nothing moves any more ends, names the process that holds it up, and saves what it can."""

import json
import os
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from mmengine.dist import get_rank, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict
from torch.distributed.distributed_c10d import _get_default_store
from torch.distributed.tensor import DTensor

from beit_mm.checkpoint.files import read_pointer
from beit_mm.engine.runners.ending import note_end, write_traceback
from beit_mm.engine.runners.resuming import is_between_updates
from beit_mm.errors import UserError
from beit_mm.models.inspection import unwrap
from beit_mm.registry import HOOKS

from .checkpoint_hook import VerifiedCheckpointHook
from .stop_hook import restore_weights

SHORT = 'loading', 'its step'  # parts of a training with the short limit; its first step may compile
BETWEEN_STEPS = 'loading', 'validation', 'the start of an epoch', 'the end of an epoch'


@HOOKS.register_module()
class WatchdogHook(Hook):
    """Ends a training, with exit code 1, when no step ends for a time: on all processes, torchrun starts them anew.

    Set it as `default_hooks.watchdog`, after `stop`. Processes tell each other by torch's store where they are, and the
    message names those that no longer do or that are behind. The first process that still gives signs of life saves the
    state after the last step, or the message says why it cannot. `traceback.txt` says where a process waits.

    Args:
        limit: seconds for a step and its batch, and for any part in which another process gives no sign of life.
        long_limit: seconds for anything else: the start, a batch of an evaluation, a checkpoint, pictures.

    Raises:
        UserError: If a limit is not positive.
    """

    priority = 'LOWEST'  # a step ends after all other hooks

    def __init__(self, limit: float = 600.0, long_limit: float = 3600.0):
        if not 0 < limit <= long_limit:
            raise UserError(f'watchdog: limit must be over 0 and at most long_limit, got {limit} and {long_limit}')
        self.limit, self.long_limit = limit, long_limit
        self.interval = min(max(limit / 100, 0.2), 10.0)  # seconds between two signs of life
        self._ended: threading.Event | None = None  # None outside a training
        self._is_ending, self._thread = False, 0  # of the training
        self._part, self._waited = '', 0.0

    def switch(self, part: str) -> str:
        """Begin another part of the training; returns the one before. `timed` calls it too."""
        self._hold()
        previous, self._part, self._waited = self._part, part, 0.0
        return previous

    def _hold(self) -> None:
        """Let the training wait while its state is saved, in case that what it waited for comes after all."""
        while self._is_ending and threading.get_ident() == self._thread:
            time.sleep(1)

    def before_train(self, runner) -> None:
        self.switch('its start')
        self._done, self._is_updating, self._is_first = runner.iter, False, True
        wrapper = runner.optim_wrapper
        for each in wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]:
            each.optimizer.register_step_pre_hook(self._note_update)
        self._thread, self._frame = threading.get_ident(), sys._getframe()
        while self._frame and self._frame.f_locals.get('self') is not runner.train_loop:
            self._frame = self._frame.f_back
        self._ended = threading.Event()
        self._store = None
        if get_world_size() > 1:
            store = _get_default_store()
            store = store.clone() if hasattr(store, 'clone') else store  # the main thread may block the first
            self._store = dist.PrefixStore(f'watchdog_{os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)}', store)
            threading.Thread(target=self._tell, args=(self._ended,), daemon=True).start()
        threading.Thread(target=self._watch, args=(runner, self._ended), daemon=True).start()

    def _note_update(self, *_) -> None:
        self._hold()
        self._is_updating = True

    def before_train_epoch(self, runner) -> None:
        self.switch('the start of an epoch')

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        self.switch('its first step' if self._is_first else 'its step')

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self._done, self._is_updating, self._is_first = runner.iter + 1, False, False
        self.switch('loading')

    def after_train_epoch(self, runner) -> None:
        self.switch('the end of an epoch')

    def before_val(self, runner) -> None:
        if self._ended:
            self.switch('validation')

    def after_val_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self.before_val(runner)

    def after_train(self, runner) -> None:
        self._ended.set()
        self._ended = None

    def _tell(self, ended: threading.Event) -> None:
        """Signs of life, until the store or this process is gone."""
        for count in range(sys.maxsize):
            sign = dict(count=count, part=self._part, done=self._done, at=time.strftime('%H:%M:%S'))
            sign['who'] = f'process {get_rank()} (pid {os.getpid()} on {socket.gethostname()})'
            try:
                self._store.set(str(get_rank()), json.dumps(sign))
            except RuntimeError:
                return
            if ended.wait(self.interval):
                return

    def _watch(self, runner, ended: threading.Event) -> None:
        last, pause = time.monotonic(), min(1.0, self.interval)
        while not ended.wait(pause) and self._is_training():
            now = time.monotonic()
            self._waited += min(now - last, 5 * pause)  # a process that was stopped itself counts no time
            last = now
            if self._waited > self.limit and (
                self._part in SHORT
                or self._waited > self.long_limit
                or any('count' not in sign for sign in self._signs())
            ):
                self._end(runner)

    def _is_training(self) -> bool:
        """Whether the loop still runs: an error may have ended it, in a notebook without ending the process."""
        frame = sys._current_frames().get(self._thread)
        while frame is not None and frame is not self._frame:
            frame = frame.f_back
        if frame is None:
            self._frame = None
        return frame is not None

    def _end(self, runner) -> None:
        """End this process. All that may wait for ever has a limit."""
        self._is_ending, waited = True, self._waited
        signs = self._signs()
        blamed = self._blame(signs)
        alive = [int(rank) for rank, sign in signs.items() if 'count' in sign]
        ending, saves = None, get_rank() == min(alive, default=0)
        if saves:
            ending = _within(self.long_limit, lambda: self._save(runner)) or 'this step could not be saved'
        elif signs:
            ending = _within(self.long_limit, lambda: self._store.get('saved').decode())
        if not ending or 'goes on from' not in ending:
            last = read_pointer(Path(runner.work_dir)) or 'none'
            ending = f'{ending or "this step is not saved"}; the last checkpoint is {last}'
        message = f'nothing has moved for {waited:.0f} s after iteration {self._done}: {blamed}; {ending}'
        stack = traceback.format_stack(sys._current_frames().get(self._thread))
        write_traceback(''.join(stack), runner.work_dir, may_replace=saves)
        note_end(1, f'error: {message}')
        print(f'error: {message}', file=sys.stderr, flush=True)
        _within(10, lambda: runner.logger.error(message))
        _within(10, lambda: runner.call_hook('on_exception', error=TimeoutError(message)))
        if self._store and saves:
            _within(10, lambda: self._store.set('saved', ending.partition(';')[0]))
        os._exit(1)

    def _signs(self) -> dict[str, dict]:
        """The last sign of each process by rank, without `count` for those that give no more; empty without a store."""
        return _within(3 * self.interval + 10, self._read_signs) or {} if self._store else {}

    def _read_signs(self) -> dict[str, dict]:
        ranks = [str(rank) for rank in range(get_world_size()) if self._store.check([str(rank)])]
        before = [json.loads(self._store.get(rank)) for rank in ranks]
        time.sleep(3 * self.interval)
        after = [json.loads(self._store.get(rank)) for rank in ranks]
        for earlier, later in zip(before, after):
            if earlier['count'] == later['count']:
                del later['count']
        return dict(zip(ranks, after))

    def _blame(self, signs: dict[str, dict]) -> str:
        if self._store is None:
            return f'this process is in {self._part}'
        if not signs:
            return 'the store of the processes does not answer, so process 0 or the launcher is lost'
        silent = [sign for sign in signs.values() if 'count' not in sign]
        if silent:
            return ', '.join(f'{sign["who"]} has given no sign since {sign["at"]}' for sign in silent)
        places = {rank: (sign['done'], sign['part'].endswith('step')) for rank, sign in signs.items()}
        behind = [signs[rank] for rank, place in places.items() if place == min(places.values())]
        if len(behind) == len(signs):
            return f'all processes are in {self._part}'
        return ', '.join(f'{sign["who"]} is still in {sign["part"]} after iteration {sign["done"]}' for sign in behind)

    def _save(self, runner) -> str:
        """Save the state after the last step, if that is complete; says where, or why not."""
        saver = next((hook for hook in runner.hooks if isinstance(hook, VerifiedCheckpointHook)), None)
        if saver is None or (obstacle := self._obstacle(runner)):
            return f'this step is not saved, as {obstacle if saver else "there is no VerifiedCheckpointHook"}'
        if self._part == 'validation':
            restore_weights(runner)
        elif self._part not in BETWEEN_STEPS:
            for statistic, kept in getattr(runner.optim_wrapper, '_statistics', None) or ():
                statistic.data.copy_(kept)  # a forward pass has changed it
        if not is_main_process():
            dist.group.WORLD = None  # MMEngine's Runner saves in the main process, as this one then is
        return f'--resume goes on from {saver.save_stop(runner, runner.epoch, self._done)}'

    def _obstacle(self, runner) -> str | None:
        """What keeps this process from saving the whole state after the last step."""
        if any(isinstance(parameter, DTensor) for parameter in unwrap(runner.model).parameters()):
            return 'the model is in shards, of which other processes hold some'
        stack = traceback.extract_stack(sys._current_frames().get(self._thread))
        in_hook = self._part == 'validation' and any(
            re.match('(before|after)_(?!val_iter)', frame.name) for frame in stack
        )
        if self._is_updating or in_hook or self._part not in (*SHORT, *BETWEEN_STEPS):
            return f'it is incomplete {"in a hook " if in_hook else ""}during {self._part}'
        if is_between_updates(runner) and (get_world_size() > 1 or self._part not in BETWEEN_STEPS):
            return 'the gradients that are being accumulated are lost'
        # Of a device that a lost process keeps busy, the weights may be older than the counters.
        if torch.cuda.is_initialized() and not _within(30, lambda: torch.cuda.synchronize() or True):
            return 'the device is busy'
        return None


def _within(seconds: float, job: Callable[[], object]) -> object:
    """What a job returns; None if it raises an error or takes longer."""
    result = []

    def work() -> None:
        try:
            result.append(job())
        except Exception:  # such as a store that is lost; there is more to say than that
            traceback.print_exc()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    return result[0] if result else None
