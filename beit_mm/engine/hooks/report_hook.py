"""A report in the work directory at the end of every run, with the wall time of its parts."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook, LoggerHook
from mmpretrain.structures import DataSample

from beit_mm.errors import TrainingStopped
from beit_mm.models.inspection import unwrap
from beit_mm.registry import HOOKS
from beit_mm.text import show
from beit_mm.visualization.report import Record, versions, write_report

TIME_FORMAT = '%Y-%m-%d %H:%M:%S'
SIZES = ('embed_dim', 'depth', 'num_heads', 'img_size', 'patch_size')


@HOOKS.register_module()
class ReportHook(Hook):
    """Writes WORK_DIR/report.html when a training, validation or test ends: scores, curves, pictures, time, config.

    Set it as `default_hooks.report`. `tools/analysis_tools/report.py` can write the page again from the files of the
    work directory. If tools/train.py or tools/test.py started the run, the page is also written when a signal or an
    error ends it. `TIMESTAMP/vis_data/run_PURPOSE.json` holds what other files do not, such as the time of every part;
    it is written at the start, at every checkpoint, after every validation and at the end. A report that cannot be
    written is a warning in the log.

    Times are the host's, from the building of the runner, without waiting for a device; one part runs at any moment.
    Loading is the wait for the next batch; steps are the rest of an iteration, logs included.
    """

    priority = 'LOWEST'  # after the hooks that log

    def __init__(self):
        self._record: Record | None = None  # None before the start
        self._part_before_val = ''
        self._labels: list[torch.Tensor] = []  # (N, 2), true and predicted, of the evaluation that goes on
        self._start_watch()

    def _start_watch(self) -> None:
        self._part, self._since = 'set-up', time.monotonic()
        self._seconds: dict[str, float] = {}

    def switch(self, part: str) -> str:
        """Begin another part of the run; returns the one before."""
        previous, since = self._part, self._since
        self._part, self._since = part, time.monotonic()
        self._seconds[previous] = self._seconds.get(previous, 0.0) + self._since - since
        return previous

    def seconds(self) -> dict[str, float]:
        """Seconds of every part until now, in order of appearance."""
        self.switch(self._part)
        return dict(self._seconds)

    def before_train(self, runner) -> None:
        self._begin(runner, 'train')
        self.switch('loading')

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        self.switch('steps')

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if self._record is not None:
            self._record.iteration = runner.iter + 1
        self.switch('loading')

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        self._save(runner, iteration=checkpoint['meta']['iter'])

    def before_val(self, runner) -> None:
        if self._record is None:  # else it is a part of the training
            self._begin(runner, 'val')
        self._part_before_val = self.switch('validation')

    def after_val(self, runner) -> None:
        self.switch(self._part_before_val)
        self._save(runner, **self._class_scores(runner.val_evaluator))

    def after_val_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        samples = [sample for sample in outputs or () if isinstance(sample, DataSample)]
        labels = [torch.cat([sample.gt_label, sample.pred_label]) for sample in samples if _is_classified(sample)]
        if labels and get_world_size() == 1:
            self._labels.append(torch.stack(labels).cpu())

    after_test_iter = after_val_iter

    def _class_scores(self, evaluator) -> dict[str, dict]:
        """Scores of every class: of the first metric that keeps them, or of a classifier on one process."""
        found = [metric.class_scores for metric in evaluator.metrics if getattr(metric, 'class_scores', None)]
        labels, self._labels = self._labels, []
        classes = (evaluator.dataset_meta or {}).get('classes')
        if not found and labels and classes:
            truths, predicted = torch.cat(labels).t()
            images = torch.bincount(truths, minlength=len(classes))
            shares = 100 * torch.bincount(truths[truths == predicted], minlength=len(classes)) / images
            columns = zip(map(str, classes), shares.tolist(), images.tolist())
            found = [{name: dict(accuracy=share, images=count) for name, share, count in columns}]
        return dict(class_scores=found[0]) if found else {}

    def before_test(self, runner) -> None:
        self._begin(runner, 'test')
        self.switch('test')

    def after_train(self, runner) -> None:
        self.switch('the rest')

    def after_test(self, runner) -> None:
        self.switch('the rest')
        self._save(runner, **self._class_scores(runner.test_evaluator))

    def after_run(self, runner) -> None:
        self._end(runner, 'finished', '')

    def on_exception(self, runner, error: BaseException) -> None:
        """Write the report of a run that a signal or an error ends; beit_mm.engine.runners.launch calls it."""
        if isinstance(error, TrainingStopped):
            self._end(runner, 'stopped', error.message)
        else:
            self._end(runner, 'failed', (str(error).strip().splitlines() or [type(error).__name__])[-1])

    def _begin(self, runner, purpose: str) -> None:
        if not is_main_process():
            return
        self._record = record = Record(purpose, started=time.strftime(TIME_FORMAT), command=list(sys.argv))
        with errors_as_warnings(runner):
            cfg = runner.cfg
            record.config = Path(cfg.filename).name if cfg.filename else runner.experiment_name
            record.source, record.resumed = str(runner._load_from or ''), bool(runner._resume)
            record.num_processes = get_world_size()
            if purpose == 'train':
                record.first_iteration = record.iteration = runner.iter
                record.first_epoch, record.max_iterations = runner.epoch, runner.max_iters
                by_epoch = [hook.log_metric_by_epoch for hook in runner.hooks if isinstance(hook, LoggerHook)]
                record.score_unit = 'epoch' if by_epoch and by_epoch[0] else 'iteration'
            record.versions, record.model = versions(), describe_model(runner)
        self._save(runner)

    def _save(self, runner, **changes) -> None:
        if self._record is None:
            return
        if self._record.purpose == 'train':
            changes['epoch'] = runner.epoch
        self._record = replace(self._record, **changes, seconds=self.seconds())
        with errors_as_warnings(runner):
            self._record.write(Path(runner.log_dir))
            if self._record.ended:
                runner.logger.info(f'report of the run: {show(write_report(Path(runner.work_dir)))}')

    def _end(self, runner, state: str, message: str) -> None:
        self._save(runner, state=state, message=message, ended=time.strftime(TIME_FORMAT))
        self._record = None  # the runner may run again
        self._start_watch()


def _is_classified(sample: DataSample) -> bool:
    return len(sample.get('gt_label', ())) == len(sample.get('pred_label', ())) == 1


@contextmanager
def timed(runner, part: str) -> Iterator[None]:
    """Count what runs inside as a part of the run, such as 'pictures', for its ReportHook and WatchdogHook."""
    hooks = [hook for hook in runner.hooks if hasattr(hook, 'switch')]
    previous = [hook.switch(part) for hook in hooks]
    try:
        yield
    finally:
        for hook, earlier in zip(hooks, previous):
            hook.switch(earlier)


@contextmanager
def errors_as_warnings(runner) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # such as a full disk
        runner.logger.warning(f'no report of this run: {type(error).__name__}: {error}')


def describe_model(runner) -> dict[str, str]:
    """Model, trunk, number of parameters and data sets of a run, in words."""
    model, cfg = unwrap(runner.model), runner.cfg
    description = {'model': type(model).__name__}
    if hasattr(model, 'backbone'):
        options = (cfg.get('model') or {}).get('backbone', {})
        sizes = [f'{name} {options[name]}' for name in SIZES if name in options]
        description['backbone'] = ', '.join([type(model.backbone).__name__, *sizes])
    total = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    description['parameters'] = f'{total:,}' + (f' ({trained:,} trained)' if trained < total else '')
    for purpose in ('train', 'val', 'test'):
        dataset = (cfg.get(f'{purpose}_dataloader') or {}).get('dataset')
        if isinstance(dataset, dict):
            name = getattr(dataset['type'], '__name__', dataset['type'])
            counts = getattr(runner, 'data_counts', {}).get(purpose)
            folder = f'{name} in {dataset["data_root"]}' if dataset.get('data_root') else name
            description[f'{purpose} data'] = f'{name}: {counts}' if counts else folder
    return description
