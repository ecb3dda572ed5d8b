"""A signal, such as a scheduler's SIGTERM, ends a training after its checkpoint is saved."""

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

from beit_mm.engine.runners.loops import ExactResume
from beit_mm.engine.runners.resume_position import is_between_updates
from beit_mm.registry import HOOKS

from .checkpoint_hook import VerifiedCheckpointHook

# Seconds in which a signal that comes again is the same one: a scheduler may tell torchrun and its processes, and
# torchrun tells them too.
SAME = 2.0


class TrainingStopped(SystemExit):
    """A signal ended the training; the message says where its checkpoint is. As an exit it has code 0."""

    def __init__(self, message: str):
        super().__init__(0)
        self.message = message


@HOOKS.register_module()
class StopOnSignalHook(Hook):
    """Ends a training after a signal: all processes at the same step, with one checkpoint saved.

    Stands as `default_hooks.stop`, beside a VerifiedCheckpointHook, for a loop with exact resume. One process stops
    after the update that it is at, several after the one after that, so that all have heard; also between two batches
    of a validation, which is then left out. A second signal ends the process at once.

    Args:
        signals: names, such as SIGTERM, or SIGUSR1 for Slurm's `--signal`.

    Raises:
        ValueError: If a name is unknown.
        TrainingStopped: From the training, once the checkpoint is saved.
    """

    priority = 'LOWEST'  # after the checkpoint hook

    def __init__(self, signals: Sequence[str] = ('SIGTERM',)):
        unknown = [name for name in signals if name not in signal.Signals.__members__]
        if unknown:
            raise ValueError(f'signals must be names such as SIGTERM, got {", ".join(unknown)}')
        self.signals = [signal.Signals[name] for name in signals]
        self._received: signal.Signals | None = None
        self._received_at = 0.0
        self._previous = {}
        self._agree: Callable[[bool], bool] | None = None
        self._num_questions = 0  # in a validation: as many as the process with the fewest batches asks

    def before_run(self, runner) -> None:
        loops = [runner._train_loop, runner._val_loop]
        for loader in [loop.dataloader for loop in loops if hasattr(loop, 'dataloader')]:
            loader.worker_init_fn = functools.partial(outlive_signals, self.signals, loader.worker_init_fn)

    def before_train(self, runner) -> None:
        self._received = None
        self._agree = SharedFlag() if get_world_size() > 1 else bool
        if not isinstance(runner.train_loop, (ExactResume, IterBasedTrainLoop)):
            runner.logger.warning(
                f'StopOnSignalHook may stop within an epoch, which a resumed '
                f'{type(runner.train_loop).__name__} begins anew; beit_mm.EpochTrainLoop goes on'
            )
        if threading.current_thread() is threading.main_thread():  # Python allows no other
            self._previous = {number: signal.signal(number, self._note) for number in self.signals}

    def after_train(self, runner) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous, self._agree = {}, None

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if not is_between_updates(runner) and self._agree(self._received is not None):
            self._stop(runner, runner.iter + 1)

    def before_val_epoch(self, runner) -> None:
        self._num_questions = len(runner.val_dataloader)
        if isinstance(self._agree, SharedFlag):
            self._num_questions = self._agree.least(self._num_questions)

    def after_val_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if self._agree is None or batch_idx >= self._num_questions:
            return
        if self._agree(self._received is not None):
            for hook in runner.hooks:
                if isinstance(hook, EMAHook):
                    hook.after_val_epoch(runner)  # the weights of the training back in their place
            self._stop(runner, runner.iter)

    def _note(self, number: int, frame) -> None:
        now = time.monotonic()
        if self._received is None:
            self._received, self._received_at = signal.Signals(number), now
        elif now - self._received_at > SAME:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _stop(self, runner, iteration: int) -> None:
        saver = next((hook for hook in runner.hooks if isinstance(hook, VerifiedCheckpointHook)), None)
        if saver is None:
            raise ValueError('StopOnSignalHook needs default_hooks.checkpoint of type beit_mm.VerifiedCheckpointHook')
        path = saver.save_stop(runner, runner.epoch, iteration)
        if is_main_process():
            runner.visualizer.close()
        cause = self._received.name if self._received else 'a signal to another process'
        message = f'stopped by {cause} after iteration {iteration}; --resume goes on from {path}'
        runner.logger.warning(message)
        raise TrainingStopped(message)


class SharedFlag:
    """Whether any process has raised its flag, told to all at the same step, without waiting for a device.

    All processes build it and ask equally often.
    """

    def __init__(self):
        self._group = dist.new_group(backend='gloo')
        self._any: torch.Tensor | None = None
        self._work = None

    def __call__(self, flag: bool) -> bool:
        """The answer to the question before: had any process raised its flag then? Meanwhile this one travels."""
        if self._work is not None:
            self._work.wait()
            if self._any.item():
                return True
        self._any = torch.tensor([int(flag)], dtype=torch.int32)
        self._work = dist.all_reduce(self._any, dist.ReduceOp.MAX, group=self._group, async_op=True)
        return False

    def least(self, number: int) -> int:
        """The smallest number that a process gives; waits for all."""
        smallest = torch.tensor(number)
        dist.all_reduce(smallest, dist.ReduceOp.MIN, group=self._group)
        return int(smallest)


def outlive_signals(signals: Sequence[int], initialise: Callable | None, worker_id: int) -> None:
    """A loader worker's `worker_init_fn`: signals to a whole process group leave it to its parent to end it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {*signals, signal.SIGTERM})
    threading.Thread(target=_obey_parent, daemon=True).start()
    if initialise is not None:
        initialise(worker_id)


def _obey_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
