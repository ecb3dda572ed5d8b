"""A report in the work directory at the end of every run."""

import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path

from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook, LoggerHook

from beit_mm.engine.runners.stopwatch import Stopwatch
from beit_mm.models.inspection import unwrap
from beit_mm.registry import HOOKS
from beit_mm.visualization.report import Record, versions, write_report

from .stop_hook import TrainingStopped

SIZES = ('embed_dim', 'depth', 'num_heads', 'img_size', 'patch_size')


def _harmless(method: Callable) -> Callable:
    """Run a method on the main process alone. Any error, such as a full disk, is a warning."""

    @functools.wraps(method)
    def run(self, runner, *args) -> None:
        try:
            if is_main_process():
                method(self, runner, *args)
        except Exception as error:
            runner.logger.warning(f'no report of this run: {type(error).__name__}: {error}')

    return run


@HOOKS.register_module()
class ReportHook(Hook):
    """Writes WORK_DIR/report.html when a training, validation or test ends: scores, curves, pictures, time, config.

    Set it as `default_hooks.report`. The page is made from the files of the work directory, so
    `tools/analysis_tools/report.py` can write it again. If tools/train.py or tools/test.py started the run, it is also
    written when a signal or an error ends the run. What other files do not hold, such as the time of every part, goes
    to `TIMESTAMP/vis_data/run_PURPOSE.json` at the start, at every checkpoint, after every validation and at the end.
    A report that cannot be written is a warning in the log and never ends the run.

    Time is measured on the host from the building of the runner, without waiting for a device. Loading is the wait for
    the next batch; steps are the rest of an iteration, logs included.
    """

    priority = 'LOWEST'  # after the hooks that log

    def __init__(self):
        self._reset()

    def _reset(self) -> None:
        self.watch = Stopwatch('set-up')
        self._record: Record | None = None  # None before the start, and if the run cannot be described
        self._has_begun = False
        self._part_before_val = ''

    def before_run(self, runner) -> None:
        if self._has_begun:  # this runner has finished another run
            self._reset()

    def before_train(self, runner) -> None:
        self._begin(runner, 'train')
        self.watch.switch('loading')

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        self.watch.switch('steps')

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if self._record is not None:
            self._record.iteration = runner.iter + 1
        self.watch.switch('loading')

    def after_train(self, runner) -> None:
        self.watch.switch('the rest')

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        if self._record is not None:
            self._record.iteration = checkpoint['meta']['iter']
        self._save(runner)

    def before_val(self, runner) -> None:
        if not self._has_begun:  # else it is a part of the training
            self._begin(runner, 'val')
        self._part_before_val = self.watch.switch('validation')

    def after_val(self, runner) -> None:
        self.watch.switch(self._part_before_val)
        self._save(runner)

    def before_test(self, runner) -> None:
        self._begin(runner, 'test')
        self.watch.switch('test')

    def after_test(self, runner) -> None:
        self.watch.switch('the rest')

    def after_run(self, runner) -> None:
        self._end(runner, 'finished', '')

    def on_exception(self, runner, error: BaseException) -> None:
        """Write the report of a run that a signal or an error ends; beit_mm.engine.runners.launch calls it."""
        if isinstance(error, TrainingStopped):
            self._end(runner, 'stopped', error.message)
        else:
            self._end(runner, 'failed', (str(error).strip().splitlines() or [type(error).__name__])[-1])

    @_harmless
    def _begin(self, runner, purpose: str) -> None:
        self._has_begun = True
        cfg = runner.cfg
        record = Record(
            purpose,
            config=Path(cfg.filename).name if cfg.filename else runner.experiment_name,
            command=list(sys.argv),
            started=_now(),
            source=str(runner._load_from or ''),
            resumed=bool(runner._resume),
            num_processes=get_world_size(),
            model=describe_model(runner),
            versions=versions(),
        )
        if purpose == 'train':
            record.first_iteration = record.iteration = runner.iter
            record.first_epoch, record.max_iterations = runner.epoch, runner.max_iters
            logger = next((hook for hook in runner.hooks if isinstance(hook, LoggerHook)), None)
            record.score_unit = 'epoch' if logger is not None and logger.log_metric_by_epoch else 'iteration'
        self._record = record
        self._save(runner)

    @_harmless
    def _save(self, runner) -> None:
        if self._record is None:
            return
        if self._record.purpose == 'train':
            self._record.epoch = runner.epoch
        self._record.seconds = self.watch.seconds()
        self._record.write(Path(runner.log_dir))

    @_harmless
    def _end(self, runner, state: str, message: str) -> None:
        if self._record is None:
            return
        self._record.state, self._record.message, self._record.ended = state, message, _now()
        self._save(runner)
        runner.logger.info(f'report of the run: {write_report(Path(runner.work_dir))}')


def _now() -> str:
    return time.strftime('%Y-%m-%d %H:%M:%S')


def describe_model(runner) -> dict[str, str]:
    """Model, trunk, number of parameters and data sets of a run, in words."""
    model, cfg = unwrap(runner.model), runner.cfg
    description = {'model': type(model).__name__}
    if hasattr(model, 'backbone'):
        options = (cfg.get('model') or {}).get('backbone', {})
        sizes = [f'{name} {options[name]}' for name in SIZES if name in options]
        description['backbone'] = ', '.join([type(model.backbone).__name__, *sizes])
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    total, trained = sum(count for count, _ in counts), sum(count for count, is_trained in counts if is_trained)
    description['parameters'] = f'{total:,}' + (f' ({trained:,} trained)' if trained < total else '')
    for purpose in ('train', 'val', 'test'):
        dataset = (cfg.get(f'{purpose}_dataloader') or {}).get('dataset')
        if isinstance(dataset, dict):
            name = getattr(dataset['type'], '__name__', dataset['type'])
            description[f'{purpose} data'] = f'{name} in {dataset["data_root"]}' if dataset.get('data_root') else name
    return description
