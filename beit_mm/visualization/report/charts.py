"""Charts of curves as SVG: which curves share one, axes, and lines; page.html draws them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import EngFormatter, MaxNLocator

from .history import Curve

# In the units of the SVG's viewBox; the page scales it to the column.
WIDTH, HEIGHT = 470, 232
LEFT, RIGHT, TOP, BOTTOM = 66, 448, 10, 204  # the edges of what the axes enclose
MAX_DOTS = 30  # of a curve whose points are shown
GROUPS = {'loss': 'Loss', 'lr': 'Learning rate', 'time': 'Seconds per step', 'acc': 'Accuracy'}
TITLES = {
    'grad_norm': 'Gradient norm',
    'memory': 'Memory, MB',
    'psnr': 'PSNR, dB',
    'perplexity': 'Codebook perplexity',
    'used_codes': 'Codebook in use',
    'kl': 'KL divergence',
    'temperature': 'Temperature',
    'kl_weight': 'KL weight',
    'skipped_updates': 'Skipped updates',
}
LAST = ('Seconds per step', 'Memory, MB')


@dataclass
class Line:
    """A curve as drawn: its name, SVG paths of the line and of its points, values as text, and its last value."""

    name: str
    path: str
    dots: str
    x: str
    y: str
    last: float
    num_not_finite: int


@dataclass
class Chart:
    """Lines over one pair of axes; ticks and marks are places in the viewBox with their text."""

    title: str
    unit: str
    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    marks: list[tuple[float, str]]
    x_range: tuple[float, float]


def training_charts(curves: Sequence[Curve], resumed_at: Sequence[int]) -> list[Chart]:
    """Losses, rates, accuracies and times each on one chart, all other quantities on one of their own.

    Args:
        curves: of one training.
        resumed_at: iterations to mark.
    """
    groups: dict[str, list[Curve]] = {}
    for curve in curves:
        if not _says_nothing(curve, curves):
            groups.setdefault(_title(curve.name), []).append(curve)
    order = sorted(groups, key=lambda title: (title in LAST, title != GROUPS['loss']))
    return [draw(title, 'iteration', groups[title], resumed_at) for title in order]


def score_charts(curves: Sequence[tuple[str, Curve]]) -> list[Chart]:
    """A chart for every score that was taken more than once."""
    return [draw(curve.name, unit, [curve]) for unit, curve in curves if len(curve.x) > 1]


def draw(title: str, unit: str, curves: Sequence[Curve], marks: Sequence[int] = ()) -> Chart:
    """Lay out curves over a common pair of axes, thinned."""
    x_low, x_high = _range(np.concatenate([curve.x for curve in curves]))
    y_low, y_high = _range(np.concatenate([curve.y for curve in curves]))
    # Nothing below a thousandth is shown large: rounding would look like a trend.
    margin = max(0.04 * (y_high - y_low), 5e-4 * max(abs(y_low), abs(y_high)))
    y_low, y_high = y_low - margin, y_high + margin

    def to_x(x):
        return LEFT + (x - x_low) / (x_high - x_low) * (RIGHT - LEFT)

    def to_y(y):
        return BOTTOM - (y - y_low) / (y_high - y_low) * (BOTTOM - TOP)

    lines = []
    for curve in curves:
        thin = curve.thinned()
        x, y = to_x(thin.x), to_y(thin.y)
        lines.append(
            Line(
                curve.name,
                _path(x, y),
                _dots(x, y),
                _numbers(thin.x),
                _numbers(thin.y),
                float(curve.y[-1]),
                int((~np.isfinite(curve.y)).sum()),
            )
        )
    return Chart(
        title,
        unit,
        lines,
        x_ticks=[(round(to_x(tick), 1), EngFormatter(sep='')(tick)) for tick in _ticks(x_low, x_high, integer=True)],
        y_ticks=[(round(to_y(tick), 1), text) for tick, text in _labelled(_ticks(y_low, y_high))],
        marks=[(round(to_x(mark), 1), f'resumed after iteration {mark}') for mark in marks if x_low <= mark <= x_high],
        x_range=(x_low, x_high),
    )


def short(number: float, digits: int = 4) -> str:
    """A number with so many significant digits, `1.235e-05` as `1.235e-5`, and `0.00025` as `2.5e-4`."""
    text = f'{number:.{digits}g}'
    if 0 < abs(number) < 1e-3:
        mantissa, _, exponent = f'{number:.{digits - 1}e}'.partition('e')
        text = f'{float(mantissa):g}e{exponent}'
    mantissa, e, exponent = text.partition('e')
    return f'{mantissa}e{int(exponent)}' if e else mantissa


def _title(name: str) -> str:
    last = name.rpartition('.')[2].rpartition('/')[2]
    if last in TITLES:
        return TITLES[last]
    if last in ('time', 'data_time'):
        return GROUPS['time']
    if last in ('lr', 'base_lr'):
        return GROUPS['lr']
    if last.startswith('loss') or last.endswith('loss'):
        return GROUPS['loss']
    return GROUPS['acc'] if 'acc' in last else name


def _says_nothing(curve: Curve, curves: Sequence[Curve]) -> bool:
    """A count of skipped updates that is 0, and MMEngine's base_lr where it is lr."""
    if curve.name == 'skipped_updates':
        return not curve.y.any()
    return curve.name == 'base_lr' and any(other.name == 'lr' and np.array_equal(other.y, curve.y) for other in curves)


def _range(values: np.ndarray) -> tuple[float, float]:
    """Lowest and highest of the finite values, a little apart if they are one."""
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    if low < high:
        return low, high
    return low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2


def _ticks(low: float, high: float, integer: bool = False) -> list[float]:
    ticks = MaxNLocator(5, steps=[1, 2, 5, 10], integer=integer).tick_values(low, high)
    return [float(tick) for tick in ticks if low <= tick <= high]


def _labelled(ticks: Sequence[float]) -> list[tuple[float, str]]:
    """Ticks with their text, of as many digits as tell them apart."""
    for digits in range(4, 9):
        texts = [short(tick, digits) for tick in ticks]
        if len(set(texts)) == len(texts):
            break
    return list(zip(ticks, texts))


def _path(x: np.ndarray, y: np.ndarray) -> str:
    """SVG path commands; the line breaks where y is not finite, and a point alone becomes a dot."""
    parts, begun = [], False
    for left, top in zip(x, y):
        if not math.isfinite(top):
            begun = False
            continue
        parts.append(f'{left:.1f} {top:.1f}' if begun else f'M{left:.1f} {top:.1f}h0L{left:.1f} {top:.1f}')
        begun = True
    return ' '.join(parts)


def _dots(x: np.ndarray, y: np.ndarray) -> str:
    """SVG path commands of the points, where they are few."""
    if len(x) > MAX_DOTS:
        return ''
    return ''.join(f'M{left:.1f} {top:.1f}h0' for left, top in zip(x, y) if math.isfinite(top))


def _numbers(values: np.ndarray) -> str:
    return ' '.join(
        f'{value:.6g}' if abs(value) < 1e6 or not float(value).is_integer() else f'{value:.0f}' for value in values
    )
