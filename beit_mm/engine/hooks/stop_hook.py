"""A signal, such as a scheduler's SIGTERM or Ctrl-C, ends a training after its checkpoint is saved."""

import functools
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import IterBasedTrainLoop

from beit_mm.engine.runners.ending import wake_with_parent
from beit_mm.engine.runners.loops import ResumableLoop
from beit_mm.engine.runners.resuming import is_between_updates
from beit_mm.errors import TrainingStopped, UserError
from beit_mm.registry import HOOKS

from .checkpoint_hook import VerifiedCheckpointHook

# A signal that comes again within these seconds is the same one: a scheduler may signal torchrun and its processes, and
# torchrun passes it on.
REPEAT_WINDOW = 2.0


@HOOKS.register_module()
class StopOnSignalHook(Hook):
    """Ends a training after a signal: all processes at the same step, with one checkpoint saved.

    Set it as `default_hooks.stop`, together with a VerifiedCheckpointHook, for a loop with exact resume. One process
    stops after its current update; several processes stop after the next one, when all know of the signal. In a
    validation they stop between two batches, and the validation is left out. A second signal ends the process at once,
    even if it waits for another one.

    Args:
        signals: names such as SIGTERM, or SIGUSR1 for Slurm's `--signal`. What is ignored, as SIGHUP is under nohup,
            stays ignored.

    Raises:
        UserError: If a name is unknown.
        TrainingStopped: In the training, when the checkpoint is saved.
    """

    priority = 'LOWEST'  # after the checkpoint hook

    def __init__(self, signals: Sequence[str] = ('SIGTERM', 'SIGINT', 'SIGHUP')):
        if unknown := [name for name in signals if name not in signal.Signals.__members__]:
            raise UserError(f'signals must be names such as SIGTERM, got {", ".join(unknown)}')
        self.signals = [signal.Signals[name] for name in signals]
        self._received: signal.Signals | None = None
        self._previous = {}
        self._agree: Callable[[bool], bool] | None = None  # None outside a training
        self._num_val_batches = 0  # of the process with the fewest

    def before_train(self, runner) -> None:
        for loop in (runner.train_loop, runner.val_loop):
            if loader := getattr(loop, 'dataloader', None):
                loader.worker_init_fn = functools.partial(ignore_signals_in_worker, self.signals, loader.worker_init_fn)
        self._received = None
        self._agree = SharedFlag() if get_world_size() > 1 else bool
        if not isinstance(runner.train_loop, (ResumableLoop, IterBasedTrainLoop)):
            name = type(runner.train_loop).__name__
            runner.logger.warning(
                f'StopOnSignalHook may stop within an epoch; a resumed {name} begins that epoch again, a '
                f'beit_mm.EpochTrainLoop goes on'
            )
        if threading.current_thread() is threading.main_thread():  # only there Python sets handlers
            reader, self._writer = os.pipe()
            os.set_blocking(self._writer, False)
            signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
            threading.Thread(target=self._end_at_second, args=(reader,), daemon=True).start()
            heard = [number for number in self.signals if signal.getsignal(number) is not signal.SIG_IGN]
            self._previous = {number: signal.signal(number, self._note) for number in heard}

    def after_train(self, runner) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._previous:
            signal.set_wakeup_fd(-1)
            os.close(self._writer)
        self._previous, self._agree = {}, None

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if not is_between_updates(runner) and self._agree(self._received is not None):
            self._stop(runner, runner.iter + 1)

    def before_val(self, runner) -> None:
        self._num_val_batches = len(runner.val_dataloader)
        if isinstance(self._agree, SharedFlag):
            self._num_val_batches = self._agree.min(self._num_val_batches)

    def after_val_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if self._agree and batch_idx < self._num_val_batches and self._agree(self._received is not None):
            restore_weights(runner)
            self._stop(runner, runner.iter)

    def _note(self, number: int, frame) -> None:
        self._received = self._received or signal.Signals(number)

    def _end_at_second(self, reader: int) -> None:
        """Runs in a thread, as the main one hears of no signal while it waits in torch. Reads signals as they come."""
        first = None
        while number := os.read(reader, 1):
            if number[0] not in self.signals:
                continue
            now = time.monotonic()
            is_alone = number[0] == signal.SIGINT and get_world_size() == 1  # no launcher passes it on
            if first is not None and now - first > (0.2 if is_alone else REPEAT_WINDOW):
                os.write(2, b'ended at once by a second signal\n')
                os._exit(128 + number[0])
            first = first or now
        os.close(reader)

    def _stop(self, runner, iteration: int) -> None:
        saver = next((hook for hook in runner.hooks if isinstance(hook, VerifiedCheckpointHook)), None)
        if saver is None:
            raise UserError('StopOnSignalHook needs default_hooks.checkpoint of type beit_mm.VerifiedCheckpointHook')
        path = saver.save_stop(runner, runner.epoch, iteration)
        if is_main_process():
            runner.visualizer.close()
        cause = self._received.name if self._received else 'a signal to another process'
        message = f'stopped by {cause} after iteration {iteration}; --resume goes on from {path}'
        runner.logger.warning(message)
        raise TrainingStopped(message, 128 + signal.SIGINT if self._received == signal.SIGINT else 0)


def restore_weights(runner) -> None:
    """In a validation, put back the weights of the training, where averaged ones are validated."""
    for hook in runner.hooks:
        if isinstance(hook, EMAHook):
            hook.after_val_epoch(runner)


class SharedFlag:
    """Tells all processes at the same step whether one of them has raised its flag. All must call it equally often."""

    def __init__(self):
        self._group = dist.new_group(backend='gloo')
        self._any, self._work = torch.zeros(1, dtype=torch.int32), None

    def __call__(self, flag: bool) -> bool:
        """Whether any flag was raised at the previous call; the flags of this call are exchanged meanwhile."""
        if self._work is not None:
            self._work.wait()
        if self._any.item():
            return True
        self._any.fill_(flag)
        self._work = dist.all_reduce(self._any, dist.ReduceOp.MAX, group=self._group, async_op=True)
        return False

    def min(self, number: int) -> int:
        """The smallest number of all processes; waits for all."""
        smallest = torch.tensor(number)
        dist.all_reduce(smallest, dist.ReduceOp.MIN, group=self._group)
        return int(smallest)


def ignore_signals_in_worker(signals: Sequence[int], initialize: Callable | None, worker_id: int) -> None:
    """Let only the parent process end a loader worker; a part of `worker_init_fn`.

    A scheduler signals all processes. A worker that ended then would fail the training before its checkpoint is saved.
    """

    def exit_with_parent() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
            pass
        os._exit(0)

    wake_with_parent()
    if hasattr(signal, 'sigwaitinfo'):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {*signals, signal.SIGTERM})
        threading.Thread(target=exit_with_parent, daemon=True).start()
    if initialize is not None:
        initialize(worker_id)
