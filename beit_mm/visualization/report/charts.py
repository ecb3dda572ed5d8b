"""Charts of logged numbers as SVG, drawn by matplotlib."""

import io
import re
from collections.abc import Sequence

import numpy as np

from .logs import Curve

TEXT_COLOR = '#010203'  # becomes the color of the page's text, so that charts fit a light and a dark page
COLORED = ('text.color', 'axes.titlecolor', 'axes.labelcolor', 'axes.edgecolor', 'xtick.color', 'ytick.color')
MAX_MARKERS = 30  # curves of more points are drawn without dots
MAX_VECTOR_POINTS = 2000  # curves of more points are drawn as pixels, which keeps the page small
# Titles by patterns of the last part of a name; curves of one title share a chart.
TITLES = {
    'loss.*|.*loss': 'Loss',
    'lr|base_lr': 'Learning rate',
    '.*acc.*': 'Accuracy',
    'grad_norm': 'Gradient norm',
    'psnr': 'PSNR, dB',
    'perplexity': 'Codebook perplexity',
    'used_codes': 'Codebook in use',
    'kl': 'KL divergence',
    'time|data_time': 'Seconds per step',
    'memory': 'Memory, MB',
}
LAST = ('Seconds per step', 'Memory, MB')


def draw_training_charts(curves: Sequence[Curve], resumed_at: Sequence[int]) -> list[str]:
    """Draw losses, rates, accuracies and times on one chart each, every other quantity on its own.

    Args:
        curves: of one training.
        resumed_at: iterations to mark.

    Returns:
        SVG of each chart, losses first, times and memory last.
    """
    values = {curve.name: curve.values for curve in curves}
    groups: dict[str, list[Curve]] = {}
    for curve in curves:
        if curve.name == 'skipped_updates' and not curve.values.any():
            continue
        if curve.name == 'base_lr' and np.array_equal(curve.values, values.get('lr')):  # MMEngine logs both
            continue
        last_part = re.split('[./]', curve.name)[-1]
        title = next((title for pattern, title in TITLES.items() if re.fullmatch(pattern, last_part)), curve.name)
        groups.setdefault(title, []).append(curve)
    order = sorted(groups, key=lambda title: (title in LAST, title != 'Loss'))
    return [draw_chart(title, groups[title], resumed_at) for title in order]


def draw_chart(title: str, curves: Sequence[Curve], marks: Sequence[int] = ()) -> str:
    """Draw curves over common axes, with their last values in the legend and dashed lines at `marks`; returns SVG."""
    import matplotlib
    from matplotlib.figure import Figure

    style = {'svg.fonttype': 'none', 'text.parse_math': False, **dict.fromkeys(COLORED, TEXT_COLOR)}
    stream = io.StringIO()
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(5.5, 3), layout='constrained')
        axes = figure.add_subplot(xlabel=curves[0].unit)
        axes.set_title(title, loc='left', fontweight='bold')
        axes.spines[['top', 'right']].set_visible(False)
        axes.grid(alpha=0.25)
        for curve in curves:
            is_finite = np.isfinite(curve.values)
            num_others = int((~is_finite).sum())
            axes.plot(
                curve.steps,
                np.where(is_finite, curve.values, np.nan),
                marker='.' if len(curve.steps) <= MAX_MARKERS else '',
                label=f'{curve.name} {curve.values[-1]:.4g}' + (f', {num_others} not finite' if num_others else ''),
                rasterized=len(curve.steps) > MAX_VECTOR_POINTS,
            )
        for mark in marks:
            axes.axvline(mark, color=TEXT_COLOR, linestyle='--', linewidth=1, alpha=0.6)
        figure.legend(loc='outside lower left', ncols=2, frameon=False)
        figure.savefig(stream, format='svg', dpi=150, transparent=True, metadata={'Creator': None, 'Date': None})
    svg = stream.getvalue()
    svg = re.sub(r' id="[a-z0-9.]+_\d+"', '', svg[svg.index('<svg') :])  # the same ids stand in every chart
    return svg.replace(TEXT_COLOR, 'currentColor')
