"""MMEngine's hooks for logs, without waiting for the device and without processes that write the same file."""

import math
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import Hook, LoggerHook, RuntimeInfoHook

from beit_mm.checkpoint.files import read_pointer
from beit_mm.datasets.counts import describe
from beit_mm.engine.optimizers.autocast_wrapper import AutocastOptimWrapper, DeferredScalars, MAX_SKIPPED, NotFinite
from beit_mm.errors import UserError
from beit_mm.registry import HOOKS


@HOOKS.register_module()
class MainProcessLoggerHook(LoggerHook):
    """LoggerHook whose main process alone writes the scores of a test; with MMEngine's all write the same file."""

    def after_test_epoch(self, runner, metrics: dict[str, float] | None = None) -> None:
        if is_main_process():
            super().after_test_epoch(runner, metrics)


@HOOKS.register_module()
class DataCountsHook(Hook):
    """Logs a line for each data set at the start of a run: images, how many of each class, and what is left out.

    `runner.data_counts` keeps the lines for the report. The tools and our training loops register it.
    """

    def before_run(self, runner) -> None:
        if not is_main_process():
            return
        loops = {name: getattr(runner, f'_{name}_loop') for name in ('train', 'val', 'test')}
        built = {name: loop.dataloader.dataset for name, loop in loops.items() if hasattr(loop, 'dataloader')}
        runner.data_counts = {}
        for name, dataset in built.items():
            try:
                runner.data_counts[name] = describe(dataset)
                runner.logger.info(f'{name} data: {runner.data_counts[name]}')
            except UserError:
                raise
            except Exception as error:  # a data set that describe does not know must not end a run
                runner.logger.warning(f'{name} data could not be counted: {type(error).__name__}: {error}')


@HOOKS.register_module()
class DeferredRuntimeInfoHook(RuntimeInfoHook):
    """RuntimeInfoHook that fetches losses and gradient norms only when they are logged or saved.

    Set it as `default_hooks.runtime_info`. The histories are the same as MMEngine's, in the same order. With an
    AutocastOptimWrapper there is one more, `skipped_updates`.

    Args:
        interval: steps between two transfers; None for the interval of the LoggerHook.
        max_skipped: that many skipped updates in a row end the run, at the next transfer.
    """

    def __init__(self, interval: int | None = None, max_skipped: int = MAX_SKIPPED):
        super().__init__()
        self.interval = interval
        self.scalars = DeferredScalars(max_skipped)

    def before_train(self, runner) -> None:
        super().before_train(runner)
        if self.interval is None:
            self.interval = math.gcd(*(hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook))) or 1
        self.scalars = DeferredScalars(self.scalars.max_skipped)  # without rests of a training that failed
        if isinstance(runner.optim_wrapper, AutocastOptimWrapper):
            runner.optim_wrapper.scalars = self.scalars
            runner.optim_wrapper.flushes_scalars = False

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        for name, value in (outputs or {}).items():
            self.scalars.add(f'train/{name}', value)
        self.scalars.end_step(runner.iter + 1)
        is_last = runner.iter + 1 == runner.max_iters or self.end_of_epoch(runner.train_dataloader, batch_idx)
        if is_last or self.every_n_inner_iters(batch_idx, self.interval):
            self._flush(runner)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        self._flush(runner)
        if 'message_hub' in checkpoint:  # MMEngine took it before it called this hook
            checkpoint['message_hub'] = runner.message_hub.state_dict()

    def _flush(self, runner) -> None:
        try:
            self.scalars.flush(runner.message_hub)
        except NotFinite as error:
            last_good = read_pointer(Path(runner.work_dir)) or 'none'
            raise NotFinite(f'{error}; the last good checkpoint is {last_good}') from None
