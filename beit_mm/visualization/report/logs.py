"""What the logs of a work directory tell: its runs, the curves of one training, and its scores."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from beit_mm.errors import UserError

from .record import FOLDER, read_record, Record

SCALARS = f'{FOLDER}/scalars.json'
NO_SCORES = {'step', 'time', 'data_time', 'memory', 'iter', 'epoch'}
OBSERVED_SCORES = ('knn/',)  # prefixes of scores that hooks log one by one
LOWER_IS_BETTER = ('loss', 'error', 'mse', 'mae')
Line = dict[str, float]


@dataclass
class Session:
    """One folder of logs, `WORK_DIR/TIMESTAMP`.

    Attributes:
        folder: its path.
        records: records of its runs, trainings first; empty without a ReportHook.
        training: logged numbers of training steps, in their order.
        scores: logged scores of validations, over epochs or iterations.
        observed: numbers that hooks logged one by one, over iterations, such as `codebook/used` and `knn/top1`.
        test: scores of a test.
    """

    folder: Path
    records: list[Record]
    training: list[Line]
    scores: list[Line]
    observed: list[Line]
    test: dict[str, float]

    @property
    def train_record(self) -> Record:
        """The record of its training, or one made from its log."""
        for record in self.records:
            if record.purpose == 'train':
                return record
        steps = [int(line['step']) for line in self.training] or [1]
        # The log does not say whether the training was resumed; if so, it went on where its lines begin.
        return Record('train', first_iteration=steps[0] - 1, iteration=steps[-1], resumed=True)

    @property
    def is_training(self) -> bool:
        return bool(self.training) or any(record.purpose == 'train' for record in self.records)


@dataclass
class Curve:
    """A logged quantity over rising iterations or epochs (`unit`); values may be infinite or NaN."""

    name: str
    unit: str
    steps: np.ndarray
    values: np.ndarray

    @property
    def best(self) -> int:
        """Index of the highest finite value, of losses and errors the lowest; the last index if none is finite."""
        finite = np.flatnonzero(np.isfinite(self.values))
        if not len(finite):
            return len(self.values) - 1
        lower_is_better = any(word in self.name.lower() for word in LOWER_IS_BETTER)
        values = self.values[finite]
        return int(finite[values.argmin() if lower_is_better else values.argmax()])


def read_sessions(work_dir: Path) -> list[Session]:
    """Read all folders of logs in a work directory, the oldest first.

    Raises:
        UserError: If there are none.
    """
    folders = sorted(path.parent for path in work_dir.glob(f'*/{FOLDER}') if path.is_dir())
    sessions = [_read_session(folder) for folder in folders]
    sessions = [session for session in sessions if session.records or session.is_training or _has_scores(session)]
    if not sessions:
        raise UserError(
            f'{work_dir} must be the work directory of a run, with logs in TIMESTAMP/{SCALARS}; '
            f'{"it has none" if work_dir.is_dir() else "there is no such folder"}'
        )
    return sessions


def _has_scores(session: Session) -> bool:
    return bool(session.scores or session.observed or session.test)


def _read_session(folder: Path) -> Session:
    records = filter(None, map(read_record, sorted(folder.glob(f'{FOLDER}/run_*.json'))))
    training, scores, observed = [], [], []
    for text in _read_lines(folder / SCALARS):
        line = _parse_numbers(text)
        if 'step' in line and math.isfinite(line['step']):
            # Steps have a loss; validations have a time, but numbers that hooks log do not.
            (training if 'loss' in line else scores if 'time' in line else observed).append(line)
    test = _parse_numbers(''.join(_read_lines(folder / f'{folder.name}.json')))
    return Session(
        folder,
        sorted(records, key=lambda record: record.purpose != 'train'),
        training,
        scores,
        observed,
        {name: value for name, value in test.items() if name not in NO_SCORES},
    )


def _read_lines(path: Path) -> list[str]:
    return path.read_text(encoding='utf-8', errors='replace').splitlines() if path.is_file() else []


def _parse_numbers(text: str) -> Line:
    """The numbers of a JSON object, also infinite ones; none if a kill cut the text off."""
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    items = content.items() if isinstance(content, dict) else ()
    return {name: value for name, value in items if isinstance(value, (int, float)) and not isinstance(value, bool)}


def current_training(sessions: list[Session]) -> list[Session]:
    """The sessions of the latest training: the last that began anew, and those that resumed it."""
    trainings = [session for session in sessions if session.is_training]
    starts = [index for index, session in enumerate(trainings) if not session.train_record.resumed]
    return trainings[starts[-1] :] if starts else trainings


def training_curves(sessions: list[Session]) -> list[Curve]:
    """Curves of all quantities that a training logged, in order of appearance."""
    parts = [(_first_step(session, 'iteration'), session.training + session.observed) for session in sessions]
    curves = _make_curves(_merge(parts), 'iteration', {'step', 'iter', 'epoch'})
    return [curve for curve in curves if not curve.name.startswith(OBSERVED_SCORES)]


def score_curves(sessions: list[Session]) -> list[Curve]:
    """Curves of all scores of validations."""
    unit = sessions[-1].train_record.score_unit if sessions else 'iteration'
    validated = [(_first_step(session, unit), session.scores) for session in sessions]
    observed = [(_first_step(session, 'iteration'), session.observed) for session in sessions]
    others = _make_curves(_merge(observed), 'iteration', NO_SCORES)
    return [
        *_make_curves(_merge(validated), unit, NO_SCORES),
        *(curve for curve in others if curve.name.startswith(OBSERVED_SCORES)),
    ]


def _first_step(session: Session, unit: str) -> float:
    """The step from which a session replaces earlier ones; infinite if it logged nothing."""
    return getattr(session.train_record, f'first_{unit}') if session.training else math.inf


def _merge(parts: list[tuple[float, list[Line]]]) -> list[Line]:
    """Lines of all sessions by step; a session that resumes from a step replaces earlier lines after that step."""
    merged: dict[int, Line] = {}
    for first_step, lines in parts:
        merged = {step: line for step, line in merged.items() if step <= first_step}
        for line in lines:
            step = int(line['step'])
            merged[step] = {**merged.get(step, {}), **line}
    return [merged[step] for step in sorted(merged)]


def _make_curves(lines: list[Line], unit: str, excluded: Iterable[str]) -> list[Curve]:
    curves = []
    for name in dict.fromkeys(name for line in lines for name in line if name not in excluded):
        points = [(line['step'], line[name]) for line in lines if name in line]
        curves.append(Curve(name, unit, *np.asarray(points, dtype=np.float64).T))
    return curves
