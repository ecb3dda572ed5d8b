"""MMEngine's LoggerHook, which writes the scores of a test on the main process alone."""

from mmengine.dist import is_main_process
from mmengine.hooks import LoggerHook

from beit_mm.registry import HOOKS


@HOOKS.register_module()
class MainProcessLoggerHook(LoggerHook):
    """LoggerHook that writes the scores of a test on the main process alone.

    With MMEngine's, all processes write the same file at once, which may then mix the output of several.
    """

    def after_test_epoch(self, runner, metrics: dict[str, float] | None = None) -> None:
        if is_main_process():
            super().after_test_epoch(runner, metrics)
