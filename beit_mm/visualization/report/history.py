"""One training over all its sessions: curves of what was logged, and scores."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .sessions import Line, NO_SCORES, Session

MAX_POINTS = 1000  # of a curve
SCORES = ('knn/',)  # beginnings of what hooks measure on validation images
LOWER_IS_BETTER = ('loss', 'error', 'mse', 'mae')  # parts of a score's name


@dataclass
class Curve:
    """A logged quantity: name, steps x and values y, float64 (N,), x rising; y may hold NaN and infinities."""

    name: str
    x: np.ndarray
    y: np.ndarray

    def thinned(self, most: int = MAX_POINTS) -> 'Curve':
        """About `most` points at the most, with the ends, and the lowest, the highest and a value that is not finite of
        every stretch, so that no spike is lost.
        """
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


def training_curves(sessions: list[Session]) -> list[Curve]:
    """Of every quantity that a training logged, in order of appearance; a later session wins where steps overlap."""
    parts = [(_start(session, 'iteration'), session.training + session.observed) for session in sessions]
    return [curve for curve in _curves(_merge(parts), {'step', 'iter', 'epoch'}) if not _is_score(curve.name)]


def score_curves(sessions: list[Session]) -> list[tuple[str, Curve]]:
    """Of every score, with the unit of its steps, 'epoch' or 'iteration'."""
    unit = sessions[-1].train_record.score_unit if sessions else 'iteration'
    validated = [(_start(session, unit), session.scores) for session in sessions]
    observed = [(_start(session, 'iteration'), session.observed) for session in sessions]
    return [
        *((unit, curve) for curve in _curves(_merge(validated), NO_SCORES)),
        *(('iteration', curve) for curve in _curves(_merge(observed), NO_SCORES) if _is_score(curve.name)),
    ]


def summarise(curves: Iterable[tuple[str, Curve]]) -> list[Score]:
    """Last and best of every score; the best is the highest, but the lowest of losses and errors."""
    scores = []
    for unit, curve in curves:
        finite = np.flatnonzero(np.isfinite(curve.y))
        best = len(curve.y) - 1
        if len(finite):
            falls = any(word in curve.name.lower() for word in LOWER_IS_BETTER)
            values = curve.y[finite]
            best = finite[values.argmin() if falls else values.argmax()]
        scores.append(
            Score(
                curve.name,
                float(curve.y[-1]),
                int(curve.x[-1]),
                float(curve.y[best]),
                int(curve.x[best]),
                unit,
                len(curve.x),
            )
        )
    return scores


def _is_score(name: str) -> bool:
    """Whether what a hook observed is a score."""
    return name.startswith(SCORES)


def _start(session: Session, unit: str) -> float:
    """Where a session goes on: what earlier ones logged after it counts no more, if this one came to a step at all."""
    return getattr(session.train_record, f'first_{unit}') if session.training else math.inf


def _merge(parts: list[tuple[float, list[Line]]]) -> list[Line]:
    """Lines of all sessions by step; a session that goes on from a step replaces what earlier ones logged after it."""
    merged: dict[int, Line] = {}
    for first, lines in parts:
        merged = {step: line for step, line in merged.items() if step <= first}
        for line in lines:
            step = int(line['step'])
            merged[step] = {**merged.get(step, {}), **line}
    return [merged[step] for step in sorted(merged)]


def _curves(lines: list[Line], left_out: Iterable[str]) -> list[Curve]:
    names = [name for name in dict.fromkeys(name for line in lines for name in line) if name not in left_out]
    curves = []
    for name in names:
        points = [(line['step'], line[name]) for line in lines if name in line]
        x, y = np.asarray(points, dtype=np.float64).T
        curves.append(Curve(name, x, y))
    return curves
