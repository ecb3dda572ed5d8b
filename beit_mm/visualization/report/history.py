"""One training over all its sessions: curves of what was logged, and scores."""
from dataclasses import dataclass
from typing import Dict, Iterable, List, Tuple

import numpy as np

from .sessions import NO_SCORES, Line, Session

MAX_POINTS = 1000  # of a curve
LOWER_IS_BETTER = ('loss', 'error', 'mse', 'mae')  # parts of a score's name


@dataclass
class Curve:
    """A logged quantity: name, steps x and values y, float64 (N,), x rising; y may hold NaN and infinities."""

    name: str
    x: np.ndarray
    y: np.ndarray

    def thinned(self, most: int = MAX_POINTS) -> 'Curve':
        """About `most` points at the most, with the ends, and the lowest, the highest and a value that is not finite of
        every stretch, so that no spike is lost."""
        if len(self.x) <= most:
            return self
        kept = {0, len(self.x) - 1}
        for places in np.array_split(np.arange(len(self.x)), most // 2):
            finite = places[np.isfinite(self.y[places])]
            if len(finite) < len(places):
                kept.add(int(np.setdiff1d(places, finite)[0]))
            if len(finite):
                kept |= {int(finite[self.y[finite].argmin()]), int(finite[self.y[finite].argmax()])}
        chosen = sorted(kept)
        return Curve(self.name, self.x[chosen], self.y[chosen])


@dataclass
class Score:
    """A score of validations: the last value and the best, each with where it was reached, and the unit of that."""

    name: str
    last: float
    last_at: int
    best: float
    best_at: int
    unit: str
    count: int


def training_curves(sessions: List[Session]) -> List[Curve]:
    """Of every quantity that a training logged, in order of appearance; a later session wins where steps overlap."""
    return _curves(_merge([(session.train_record.first_iteration, session.training) for session in sessions]),
                   {'step', 'iter', 'epoch'})


def score_curves(sessions: List[Session]) -> List[Tuple[str, Curve]]:
    """Of every score, with the unit of its steps, 'epoch' or 'iteration'."""
    by_unit: Dict[str, List[Tuple[int, List[Line]]]] = {'epoch': [], 'iteration': []}
    for session in sessions:
        record = session.train_record
        starts = dict(epoch=record.first_epoch, iteration=record.first_iteration)
        for unit, parts in by_unit.items():
            lines = [line for line in session.scores if _unit(line, record.score_unit) == unit]
            parts.append((starts[unit], lines))
    return [(unit, curve) for unit, parts in by_unit.items() for curve in _curves(_merge(parts), NO_SCORES)]


def summarise(curves: Iterable[Tuple[str, Curve]]) -> List[Score]:
    """Last and best of every score; the best is the highest, but the lowest of losses and errors."""
    scores = []
    for unit, curve in curves:
        finite = np.flatnonzero(np.isfinite(curve.y))
        best = len(curve.y) - 1
        if len(finite):
            falls = any(word in curve.name.lower() for word in LOWER_IS_BETTER)
            values = curve.y[finite]
            best = finite[values.argmin() if falls else values.argmax()]
        scores.append(Score(curve.name, float(curve.y[-1]), int(curve.x[-1]), float(curve.y[best]),
                            int(curve.x[best]), unit, len(curve.x)))
    return scores


def _unit(line: Line, logged_over: str) -> str:
    """A hook that logs a score alone, without a validation's `time`, does so over iterations, as KNNHook."""
    return logged_over if 'time' in line else 'iteration'


def _merge(parts: List[Tuple[int, List[Line]]]) -> List[Line]:
    """Lines of all sessions by step; a session that goes on from a step replaces what earlier ones logged after it."""
    merged: Dict[int, Line] = {}
    for first, lines in parts:
        if lines:
            merged = {step: line for step, line in merged.items() if step <= first}
        for line in lines:
            step = int(line['step'])
            merged[step] = {**merged.get(step, {}), **line}
    return [merged[step] for step in sorted(merged)]


def _curves(lines: List[Line], left_out: Iterable[str]) -> List[Curve]:
    names = [name for name in dict.fromkeys(name for line in lines for name in line) if name not in left_out]
    curves = []
    for name in names:
        points = [(line['step'], line[name]) for line in lines if name in line]
        x, y = np.asarray(points, dtype=np.float64).T
        curves.append(Curve(name, x, y))
    return curves
