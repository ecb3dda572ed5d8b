"""A pre-training on one's own images: look at them, choose, write configs, train by them."""

import math
import os
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, TextIO

import torch
from mmengine.config import Config
from mmengine.dist import broadcast_object_list, get_world_size, init_dist, is_distributed, is_main_process
from mmengine.registry import DefaultScope, HOOKS

from beit_mm.apis import load_model
from beit_mm.config.parts import drop_pretrained
from beit_mm.config.reading import read_config
from beit_mm.engine.runners.launch import train
from beit_mm.errors import UserError
from beit_mm.text import show
from beit_mm.visualization.report.logs import current_training, read_curves, read_sessions

from .configs import FINETUNE_EPOCHS, train_tool, Writer
from .folder import Folder, look_at
from .labels import Labels, read_labels
from .measuring import measure_step
from .plan import candidates, choose, MAX_TOKENIZER_STEPS, MIN_STEPS, Plan, TOKENIZER_SHARE

STAGES = ('tokenizer', 'pretrain')
SHARE, LONGEST = 0.02, 15.0  # of the time, for each look and each measurement, and seconds
MAX_MEASURED = 3  # plans
START = 15.0  # seconds of a training besides its steps: check, loaders, checkpoints, pictures, report
RESERVE = 0.95  # share of the time that is planned: a machine may become slower
FEWEST = 20  # steps, if the machine has become so slow
MEASURED = dict(tokenizer=30, pretrain=10**6)  # steps of a config that is only measured
SCORES = {'linear/top1': 'by ridge regression', 'knn/top1': 'by nearest neighbours'}
NUM_SCORES = 4  # in a training
NAMES = dict(tokenizer='tokenizer', pretrain='pre-training')


class Pretraining:
    """A pre-training on a folder of images in a given time.

    Args:
        path: the folder of images.
        out: a folder for configs, logs and checkpoints.
        minutes: for everything.
        start: when the time began, of time.monotonic().
        launcher: as of tools/train.py.
    """

    def __init__(self, path: str, out: Path, minutes: float, start: float, launcher: str = 'none'):
        self.path, self.out, self.minutes, self.launcher = path, out, minutes, launcher
        self.end, self.limit = start + 60 * minutes, min(LONGEST, SHARE * 60 * minutes)
        self.written: dict[str, str] = {}

    @property
    def left(self) -> float:
        """Seconds."""
        return on_first(lambda: self.end - time.monotonic())

    def run(self, labels: str | None = None) -> None:
        """Look, choose, write, train and report.

        Args:
            labels: a folder of labelled images, for a score; None for none.

        Raises:
            UserError, OSError: If the images, the time or a folder do not allow it.
        """
        start_processes(self.launcher)
        folder, known = on_first(self._look, labels)
        plans = candidates(folder, get_world_size())
        self.writer = Writer(self.out, folder, known, plans[0], get_world_size())
        step, tokenizer_step = self._choose(plans), self._measure('tokenizer')
        left = self.left - 2 * START
        length = min(MAX_TOKENIZER_STEPS, int(TOKENIZER_SHARE * left / tokenizer_step))
        planned = int(RESERVE * (left - length * tokenizer_step) / step)
        if planned < MIN_STEPS or not length:
            needed = max(MIN_STEPS * step / RESERVE / (1 - TOKENIZER_SHARE), tokenizer_step / TOKENIZER_SHARE)
            least = math.ceil(self.minutes + (needed - left) / 60)
            what = f'{self.minutes:g} minutes are enough for {max(0, planned)} steps of the smallest model'
            raise UserError(f'{what}, and {MIN_STEPS} are the least; give --minutes {least} or more')
        on_first(self._write, 'tokenizer', length, tokenizer_step, None)
        tokens = self.writer.checkpoint('tokenizer', length)
        on_first(self._write, 'pretrain', planned, step, tokens)
        commands = [f'python {train_tool()} {self.writer.file(stage)}' for stage in STAGES]
        _print('written, and now done; the same by hand:', *commands)
        train_stage(self.writer.file('tokenizer'), None, self.launcher)
        # The time that is left is known now. Of a machine that is not as fast all the time, the slower step counts.
        step, start = max(step, self._measure('pretrain')), self.left
        scores = score_random_weights(read_config(self.writer.file('pretrain'))) if known else None
        left = self.left - START - (start - self.left) * NUM_SCORES
        on_first(self._write, 'pretrain', max(FEWEST, int(RESERVE * left / step)), step, tokens)
        train_stage(self.writer.file('pretrain'), None, self.launcher)
        report(self.out, scores)

    def _look(self, labels: str | None) -> tuple[Folder, Labels | None]:
        prepare_folder(self.out, [self.path, *([labels] if labels else [])])
        folder = look_at(self.path, self.limit)
        say(folder=self.path, **folder.describe())
        known = read_labels(labels, folder, self.out) if labels else None
        if known:
            say(labels=known.describe())
        return folder, known

    def _write(self, stage: str, steps: int, step: float, start: Path | None) -> None:
        """Write a config, unless it has been changed since it was written, and say what it does."""
        file = self.writer.file(stage)
        if file.exists() and file.read_text(encoding='utf-8') != self.written[stage]:
            say(**{NAMES[stage]: f'as {file} says, which has been changed'})
            return
        plan, folder = self.writer.plan, self.writer.folder
        batch = self.writer.processes * (plan.tokenizer_batch if stage == 'tokenizer' else plan.batch)
        times = f'every image {steps * batch / folder.num_images:.1f} times'
        text = f'{steps:,} steps of {step:.3g} s: {steps * step / 60:.1f} minutes, {batch} images a step, {times}'
        seen = [f'{name}: {line}' for name, line in folder.describe().items()]
        chosen = f'Chosen for {self.minutes:g} minutes on this machine, from measured steps: {plan.describe()}.'
        self.written[stage] = self.writer.write(stage, steps, start, [*seen, chosen, text])
        if stage == 'pretrain' and self.writer.labels:
            self.writer.write('finetune', FINETUNE_EPOCHS, self.writer.checkpoint(stage, steps))
        say(**{NAMES[stage]: text})

    def _measure(self, stage: str) -> float:
        step = measure_step(self.writer.text(stage, MEASURED[stage]), self.limit, self.launcher)
        return on_first(lambda: step)

    def _choose(self, plans: list[Plan]) -> float:
        """Choose the plan; returns seconds of a step of its pre-training."""
        measured: dict[Plan, float] = {}
        while True:
            plan = self.writer.plan = choose(plans, measured, (1 - TOKENIZER_SHARE) * (self.left - 2 * START))
            if plan in measured:
                break
            if len(measured) < MAX_MEASURED:
                measured[plan] = self._measure('pretrain')
            else:
                plans = [other for other in plans if other in measured]
        if measured[plan] == math.inf:
            raise UserError(f'the memory of this machine is too small for {plan.describe()}')
        say(model=plan.describe())
        return measured[plan]


def start_processes(launcher: str) -> None:
    """Let the processes of a launcher know each other."""
    if launcher == 'none' or is_distributed():
        return
    if torch.cuda.is_available():
        init_dist(launcher)
    else:
        torch.distributed.init_process_group('gloo')


def on_first(job: Callable, *arguments) -> Any:
    """What a function gives in the first process alone, in all processes; so are a user's mistakes."""
    result = [None]
    if is_main_process():
        try:
            result = [job(*arguments)]
        except (UserError, OSError) as error:
            result = [error]
    broadcast_object_list(result)
    if isinstance(result[0], Exception):
        raise result[0]
    return result[0]


def train_stage(config: Path, resume: str | None, launcher: str, log: TextIO | None = None) -> None:
    """Train by a config, as tools/train.py does; the log goes to a stream, by default to standard error."""
    arguments = dict(config=str(config), work_dir=None, cfg_options=None, resume=resume, launcher=launcher)
    with redirect_stdout(log or sys.stderr):
        train(Namespace(**arguments, no_validate=False, auto_scale_lr=False))


def resume(path: str, out: Path, launcher: str) -> None:
    """Go on with the configs in a folder: train what is not at its end, and report.

    UserError if there are none, or they are for other images.
    """
    start_processes(launcher)
    files = [out / f'{stage}.py' for stage in STAGES]
    if missing := [file.name for file in files if not file.is_file()]:
        mend = 'leave out --resume' if len(missing) == len(files) else 'leave out --resume and name another --out'
        raise UserError(f'there is nothing to resume in {out}: {missing[0]} is missing; {mend}')
    for file in files:
        cfg = read_config(file)
        if cfg.get('data_root') != path:
            raise UserError(f'{file} is for the images in {cfg.get("data_root")}, got {path}; name another --out')
    for file in files:
        cfg = read_config(file)
        if not Path(cfg.work_dir, f'iter_{cfg.train_cfg.max_iters}.pth').is_file():
            train_stage(file, 'auto', launcher)
    report(out)


def prepare_folder(out: Path, paths: list[str]) -> None:
    """Make the folder for results; refuse one that holds an earlier run, or lies within folders of images."""
    real = Path(os.path.realpath(out))  # Path.resolve() raises an error of its own for a link to itself
    for path in paths:
        if Path(path).resolve() in (real, *real.parents):
            raise UserError(f'--out must lie outside of {path}, whose pictures are used, got {out}')
    if (full := str(out.absolute())) != full.encode('utf-8', 'ignore').decode():  # TensorBoard needs it
        raise UserError(f'the path of --out must be text in UTF-8, got {full}; name another')
    if used := [name for name in ('tokenizer.py', 'pretrain.py') if (out / name).exists()]:
        raise UserError(f'{out} holds an earlier run ({used[0]}); add --resume to go on, or name another --out')
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise OSError(f'{out} must be a folder that can be written to: {error.strerror}; name another --out') from error


def report(out: Path, before: dict[str, float] | None = None) -> None:
    """Say where everything is, the scores, and what may come next.

    Args:
        out: the folder for results.
        before: the scores of random weights, if they are known.
    """
    config = out / 'pretrain.py'
    cfg = read_config(config)
    weights = Path(cfg.work_dir, f'iter_{cfg.train_cfg.max_iters}.pth')
    say(weights=weights, log=Path(cfg.work_dir, 'report.html'))
    if neighbours_hook(cfg):
        curves = {curve.name: curve for curve in read_curves(current_training(read_sessions(Path(cfg.work_dir))))[1]}
        before = before or score_random_weights(cfg)
        for name, words in SCORES.items():
            score = (
                f'{curves[name].values[-1]:.1f} % of labelled images right, {before[name]:.1f} % before the training'
            )
            say(**{name.partition('/')[0]: f'{score}: {words}'})
    lines = [f'beit-mm features {show(cfg.data_root)} --model {config} --weights {weights} --out {out}/features.npz']
    if (out / 'finetune.py').is_file():
        lines.append(f'python {train_tool()} {out}/finetune.py')
    _print('next:', *lines)


def neighbours_hook(cfg: Config) -> dict | None:
    """The KNNHook of a config."""
    return next((hook for hook in cfg.get('custom_hooks') or () if hook['type'] == 'beit_mm.KNNHook'), None)


def score_random_weights(cfg: Config) -> dict[str, float]:
    """The scores of the trunk before the training, in percent."""
    drop_pretrained(cfg.model)
    with redirect_stdout(sys.stderr), DefaultScope.overwrite_default_scope(cfg.default_scope):
        hook = HOOKS.build(dict(neighbours_hook(cfg)))
        model = load_model(cfg)
        hook.prepare(model)
        return hook.scores(model)


def say(**lines: object) -> None:
    """Print aligned lines of a name and a text, once."""
    for name, text in lines.items() if is_main_process() else ():
        print(f'{name.replace("_", " "):<13} {show(text)}', flush=True)


def _print(title: str, *commands: str) -> None:
    if is_main_process():
        print(title, *commands, sep='\n  ', flush=True)
