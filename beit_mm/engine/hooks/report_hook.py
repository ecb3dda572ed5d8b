"""A page in the work directory at the end of every run."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook, LoggerHook

from beit_mm.engine.runners.stopwatch import Stopwatch
from beit_mm.engine.runners.unwrapping import unwrap
from beit_mm.registry import HOOKS
from beit_mm.visualization.report import Record, versions, write_report

from .stop_hook import TrainingStopped

SET_UP, LOADING, STEPS, VALIDATION, TEST, REST = 'set-up', 'loading', 'steps', 'validation', 'test', 'the rest'


@HOOKS.register_module()
class ReportHook(Hook):
    """Writes WORK_DIR/report.html when a training, validation or test ends: scores, curves, pictures, time, config.

    Stands as `default_hooks.report`. The page is made from what lies in the work directory, so `tools/report.py` can
    make it again. It is written too when a signal or an error ends a run that was started by tools/train.py or
    tools/test.py. What the run knows besides, such as the time of its parts, goes to
    `TIMESTAMP/vis_data/run_PURPOSE.json` at its start, after every validation and checkpoint, and at its end.
    A report that cannot be written is a warning in the log, never an error of the run.

    Time is measured on the host without waiting for a device, from the building of the runner. Loading is the wait for
    the next batch; steps are all else of an iteration, logs included.
    """

    priority = 'LOWEST'  # after those that log, so that the page has everything

    def __init__(self):
        self._watch = Stopwatch(SET_UP)
        self._outer: list[str] = []  # parts that others interrupt
        self._has_begun = False
        self._record: Record | None = None  # of the main process; None where the run cannot be described

    def before_run(self, runner) -> None:
        if self._has_begun:  # an earlier run of this runner
            self._watch, self._outer, self._has_begun, self._record = Stopwatch(SET_UP), [], False, None

    def before_train(self, runner) -> None:
        self._begin(runner, 'train')
        self._watch.switch(LOADING)

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        self._watch.switch(STEPS)

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if self._record is not None:
            self._record.iteration = runner.iter + 1
        self._watch.switch(LOADING)

    def after_train(self, runner) -> None:
        self._watch.switch(REST)

    def before_val(self, runner) -> None:
        if not self._has_begun:  # else a part of the training
            self._begin(runner, 'val')
        self.begin_part(runner, VALIDATION)

    def after_val(self, runner) -> None:
        self.end_part(runner)

    def before_test(self, runner) -> None:
        self._begin(runner, 'test')
        self._watch.switch(TEST)

    def after_test(self, runner) -> None:
        self._watch.switch(REST)

    def begin_part(self, runner, part: str) -> None:
        """Called by `timed`: another part interrupts the one that runs."""
        self._outer.append(self._watch.switch(part))

    def end_part(self, runner) -> None:
        """Called by `timed`: the part that was interrupted goes on."""
        self._watch.switch(self._outer.pop())
        self._save(runner)

    def after_run(self, runner) -> None:
        self._end(runner, 'finished')

    def on_exception(self, runner, error: BaseException) -> None:
        """Called by beit_mm.engine.runners.launch: a signal or an error ends the run."""
        if isinstance(error, TrainingStopped):
            self._end(runner, 'stopped', error.message)
        else:
            lines = str(error).strip().splitlines()
            self._end(runner, 'failed', lines[-1] if lines else type(error).__name__)

    def _begin(self, runner, purpose: str) -> None:
        self._has_begun = True
        self._guard(runner, lambda: self._make_record(runner, purpose))
        self._guard(runner, lambda: self._describe(runner))
        self._save(runner)

    def _make_record(self, runner, purpose: str) -> None:
        cfg = runner.cfg
        progress = (
            {}
            if purpose != 'train'
            else dict(
                first_iteration=runner.iter,
                first_epoch=runner.epoch,
                iteration=runner.iter,
                max_iterations=runner.max_iters,
                score_unit=score_unit(runner),
            )
        )
        self._record = Record(
            purpose=purpose,
            config=Path(cfg.filename).name if cfg.filename else runner.experiment_name,
            command=list(sys.argv),
            started=now(),
            source=str(runner._load_from or ''),
            resumed=bool(runner._resume),
            num_processes=get_world_size(),
            **progress,
        )

    def _describe(self, runner) -> None:
        if self._record is not None:
            self._record.model = describe_model(runner)
            self._record.versions = versions()

    def _save(self, runner) -> None:
        self._guard(runner, lambda: self._write_record(runner))

    def _write_record(self, runner) -> None:
        if self._record is None:
            return
        if self._record.purpose == 'train':
            self._record.epoch = runner.epoch
        self._record.seconds = self._watch.seconds()
        self._record.write(Path(runner.log_dir))

    def _end(self, runner, state: str, message: str = '') -> None:
        if self._record is None:  # it ends before its start, and there is nothing to tell
            return
        self._record.state, self._record.message, self._record.ended = state, message, now()
        self._save(runner)
        self._guard(runner, lambda: runner.logger.info(f'report of the run: {write_report(Path(runner.work_dir))}'))

    @staticmethod
    def _guard(runner, write: Callable[[], None]) -> None:
        """In the main process alone, and never to the harm of the run."""
        if not is_main_process():
            return
        try:
            write()
        except Exception as error:  # a full disk, a picture that Pillow refuses, ...: whatever it is, the run matters
            runner.logger.warning(f'no report of this run: {type(error).__name__}: {error}')


def now() -> str:
    return time.strftime('%Y-%m-%d %H:%M:%S')


def score_unit(runner) -> str:
    """What the scores of a training's validations are logged over: 'epoch' or 'iteration'."""
    logger = next((hook for hook in runner.hooks if isinstance(hook, LoggerHook)), None)
    return 'epoch' if logger is not None and logger.log_metric_by_epoch else 'iteration'


def describe_model(runner) -> dict[str, str]:
    """What runs, in words: model, trunk, data, parameters."""
    model, cfg = unwrap(runner.model), runner.cfg
    described = {'model': type(model).__name__}
    backbone = getattr(model, 'backbone', None)
    if backbone is not None:
        sizes = [
            f'{name} {value}'
            for name, value in cfg.model.get('backbone', {}).items()
            if name in ('embed_dim', 'depth', 'num_heads', 'img_size', 'patch_size')
        ]
        described['backbone'] = ', '.join([type(backbone).__name__, *sizes])
    total = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    described['parameters'] = f'{total:,}' + (f' ({trained:,} trained)' if trained < total else '')
    for purpose in ('train', 'val', 'test'):
        dataset = (cfg.get(f'{purpose}_dataloader') or {}).get('dataset')
        if dataset:
            kind, root = getattr(dataset['type'], '__name__', dataset['type']), dataset.get('data_root')
            described[f'{purpose} data'] = f'{kind} in {root}' if root else kind
    return described
