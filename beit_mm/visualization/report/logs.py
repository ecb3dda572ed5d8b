"""The logs of a work directory: its sessions, the curves of one training, and scores."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from beit_mm.errors import UserError

from .record import FOLDER, read_record, Record

SCALARS = f'{FOLDER}/scalars.json'
STEPS = {'step', 'iter', 'epoch'}
NO_SCORES = STEPS | {'time', 'data_time', 'memory'}
HOOK_SCORES = ('knn/', 'linear/', 'features/')  # prefixes of scores that a hook logs
LOWER_IS_BETTER = ('loss', 'error', 'mse', 'mae')
Line = dict[str, float]


@dataclass
class Session:
    """One folder of logs, `WORK_DIR/TIMESTAMP`.

    Attributes:
        records: of its runs, trainings first; empty without a ReportHook.
        lines: logged numbers. Training steps have a loss, validations a time; numbers that hooks log have neither.
        test: scores of a test.
    """

    folder: Path
    records: list[Record]
    lines: list[Line]
    test: Line

    @property
    def has_steps(self) -> bool:
        return any('loss' in line for line in self.lines)

    @property
    def is_training(self) -> bool:
        return self.has_steps or any(record.purpose == 'train' for record in self.records)

    @property
    def train_record(self) -> Record:
        """The record of its training, or one made from its log."""
        if self.records and self.records[0].purpose == 'train':
            return self.records[0]
        steps = [int(line['step']) for line in self.lines if 'loss' in line] or [1]
        # The log does not say whether the training was resumed; if so, it went on where its lines begin.
        return Record('train', first_iteration=steps[0] - 1, iteration=steps[-1], resumed=True)


@dataclass
class Curve:
    """A logged quantity over rising iterations or epochs (`unit`); values may be infinite or NaN."""

    name: str
    unit: str
    steps: np.ndarray
    values: np.ndarray

    @property
    def best(self) -> int:
        """Index of the highest finite value, of losses and errors the lowest."""
        sign = -1 if any(word in self.name.lower() for word in LOWER_IS_BETTER) else 1
        return int(np.where(np.isfinite(self.values), sign * self.values, -math.inf).argmax())


def read_sessions(work_dir: Path) -> list[Session]:
    """Read all folders of logs in a work directory, the oldest first; UserError if there are none."""
    folders = sorted(path.parent for path in work_dir.glob(f'*/{FOLDER}') if path.is_dir())
    sessions = [session for session in map(_read_session, folders) if session.records or session.lines or session.test]
    if not sessions:
        raise UserError(
            f'{work_dir} must be the work directory of a run, with logs in TIMESTAMP/{SCALARS}; '
            f'{"it has none" if work_dir.is_dir() else "there is no such folder"}'
        )
    return sessions


def _read_session(folder: Path) -> Session:
    records = [record for path in sorted(folder.glob(f'{FOLDER}/run_*.json')) if (record := read_record(path))]
    records.sort(key=lambda record: record.purpose != 'train')
    lines = map(_parse_numbers, _read(folder / SCALARS).splitlines())
    lines = [line for line in lines if math.isfinite(line.get('step', math.nan))]
    test = _parse_numbers(_read(folder / f'{folder.name}.json'))
    return Session(folder, records, lines, {name: test[name] for name in test if name not in NO_SCORES})


def _read(path: Path) -> str:
    return path.read_text(encoding='utf-8', errors='replace') if path.is_file() else ''


def _parse_numbers(text: str) -> Line:
    """The numbers of a JSON object, also infinite ones; none if a kill cut the text off."""
    try:
        return {name: value for name, value in json.loads(text).items() if type(value) in (int, float)}
    except (ValueError, AttributeError):
        return {}


def current_training(sessions: Sequence[Session]) -> list[Session]:
    """The sessions of the latest training: the last that began anew, and those that resumed it."""
    trainings = [session for session in sessions if session.is_training]
    starts = [index for index, session in enumerate(trainings) if not session.train_record.resumed]
    return trainings[starts[-1] :] if starts else trainings


def read_curves(sessions: Sequence[Session]) -> tuple[list[Curve], list[Curve]]:
    """Curves of what a training logged, and of its validation scores, both in order of appearance."""
    unit = sessions[-1].train_record.score_unit if sessions else 'iteration'
    logged = _curves(sessions, 'iteration', lambda line: 'loss' in line or 'time' not in line, STEPS)
    scores = _curves(sessions, unit, lambda line: 'loss' not in line and 'time' in line, NO_SCORES)
    scores += [curve for curve in logged if curve.name.startswith(HOOK_SCORES)]
    return [curve for curve in logged if not curve.name.startswith(HOOK_SCORES)], scores


def _curves(
    sessions: Sequence[Session], unit: str, is_shown: Callable[[Line], bool], excluded: set[str]
) -> list[Curve]:
    """Curves over all sessions; one that resumes from a step replaces earlier lines after that step."""
    merged: dict[int, Line] = {}
    for session in sessions:
        if session.has_steps:
            first = getattr(session.train_record, f'first_{unit}')
            merged = {step: line for step, line in merged.items() if step <= first}
        for line in filter(is_shown, session.lines):
            merged.setdefault(int(line['step']), {}).update(line)
    lines = [merged[step] for step in sorted(merged)]
    curves = []
    for name in dict.fromkeys(name for line in lines for name in line if name not in excluded):
        points = [(line['step'], line[name]) for line in lines if name in line]
        curves.append(Curve(name, unit, *np.asarray(points, dtype=np.float64).T))
    return curves
