"""MMEngine's log hook with a score file that several processes do not spoil."""

from mmengine.dist import is_main_process
from mmengine.hooks import LoggerHook

from beit_mm.registry import HOOKS


@HOOKS.register_module()
class MainProcessLoggerHook(LoggerHook):
    """LoggerHook whose test scores are written by the main process alone.

    In MMEngine's, all processes write the same file at once, which then may hold parts of several.
    """

    def after_test_epoch(self, runner, metrics: dict[str, float] | None = None) -> None:
        if is_main_process():
            super().after_test_epoch(runner, metrics)
