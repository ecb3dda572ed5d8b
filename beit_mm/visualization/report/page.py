"""The report of a work directory as one HTML page, with its charts and pictures."""

import base64
import io
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from beit_mm.datasets.bad_images import BadImages
from beit_mm.files import atomic_write
from beit_mm.hiding import hide_secrets
from beit_mm.text import show

from .logs import current_training, Curve, read_curves, read_sessions, Session
from .record import FOLDER, Record

MAX_BAD_IMAGES = 20
MAX_NAMES = 16  # of pictures
MAX_BYTES = 1_000_000  # larger pictures are scaled down and written as JPEG
MAX_SIDE = 1600  # pixels
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
    'used_codes': 'Codebook in use, %',
    'kl': 'KL divergence',
    'time|data_time': 'Seconds per step',
    'memory': 'Memory, MB',
}
# Control characters but tabs and line breaks, and those that turn the direction of a text.
CONTROLS = re.compile('[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069]')
LAST = ('Seconds per step', 'Memory, MB')


def write_report(work_dir: Path, path: Path | None = None) -> Path:
    """Write the report of a work directory: a page that needs no other file, no network and no script.

    Args:
        work_dir: of the runs, with a folder of logs each.
        path: the page; by default report.html in the work directory. It is replaced atomically.

    Returns:
        Its path.

    Raises:
        UserError: If there are no logs.
        OSError: If the page cannot be written.
    """
    from jinja2 import Environment, StrictUndefined

    path = path or work_dir / 'report.html'
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(duration=format_duration, number=lambda value: f'{value:.4g}')
    template = environment.from_string(Path(__file__).with_name('page.html').read_text(encoding='utf-8'))
    page = CONTROLS.sub(lambda match: show(match[0]), template.render(_collect(work_dir)))
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding='utf-8', errors='replace')
    return path


def _collect(work_dir: Path) -> dict[str, object]:
    """What the page shows, by the names that page.html uses."""
    sessions = read_sessions(work_dir)
    training = current_training(sessions)
    shown = training or sessions[-1:]
    latest = shown[-1].records[0] if shown[-1].records else shown[-1].train_record
    curves, scores = read_curves(training)
    starts = [session.train_record.first_iteration for session in training if session.train_record.resumed]
    resumed_at = [iteration for iteration in starts if iteration]
    seconds = sum((Counter(record.seconds) for session in shown for record in session.records), Counter())
    # The longest part first, 'the rest' last.
    order = sorted(seconds, key=lambda part: (part == 'the rest', -seconds[part]))
    return dict(
        name=latest.config or next((path.name for path in work_dir.glob('*.py')), work_dir.resolve().name),
        latest=latest,
        last={curve.name: curve.values[-1] for curve in curves},
        scores=scores,
        tests=_tests(sessions),
        charts=_training_charts(curves, resumed_at),
        score_charts=[draw_chart(curve.name, [curve]) for curve in scores if len(curve.steps) > 1],
        resumed_at=resumed_at,
        pictures=read_pictures(shown),
        seconds={part: seconds[part] for part in order},
        sessions=sessions,
        shown=shown,
        config=_read_config(shown, work_dir),
        bad_images=[hide_secrets(name) for name in BadImages(1, work_dir / 'bad_images.txt').names()],
        max_bad_images=MAX_BAD_IMAGES,
    )


def format_duration(seconds: float) -> str:
    """Such as `2 h 05 min`, `3 min 20 s`, `1.25 s` or `40 ms`."""
    if seconds < 60:
        return f'{seconds:.3g} s' if seconds >= 1 else f'{1000 * seconds:.0f} ms'
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours} h {minutes:02} min' if hours else f'{minutes} min {rest:02} s'


def _tests(sessions: Sequence[Session]) -> list[tuple[str, Record, dict[str, float]]]:
    """Name, record and scores of every test, and of every validation without a training."""
    tests = []
    for session in sessions:
        records = {record.purpose: record for record in session.records}
        if session.test:
            tests.append((session.folder.name, records.get('test', Record('test')), session.test))
        if 'val' in records:
            scores = {curve.name: curve.values[-1] for curve in read_curves([session])[1]}
            tests.append((session.folder.name, records['val'], scores))
    return tests


def _training_charts(curves: Sequence[Curve], resumed_at: Sequence[int]) -> list[str]:
    """SVG of all curves, losses first, times and memory last."""
    values = {curve.name: curve.values for curve in curves}
    if np.array_equal(values.get('base_lr'), values.get('lr')):  # MMEngine logs both
        values.pop('base_lr', None)
    if not np.any(values.get('skipped_updates')):
        values.pop('skipped_updates', None)
    groups = defaultdict(list)
    for curve in (curve for curve in curves if curve.name in values):
        last_part = re.split('[./]', curve.name)[-1]
        titles = [title for pattern, title in TITLES.items() if re.fullmatch(pattern, last_part)]
        groups[(titles or [curve.name])[0]].append(curve)
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
        axes.set_title(show(title), loc='left', fontweight='bold')
        axes.spines[['top', 'right']].set_visible(False)
        axes.grid(alpha=0.25)
        for curve in curves:
            values = np.where(np.isfinite(curve.values), curve.values, np.nan)
            num_others = np.isnan(values).sum()
            label = f'{show(curve.name)} {curve.values[-1]:.4g}' + (f', {num_others} not finite' if num_others else '')
            marker, is_long = '.' if len(values) <= MAX_MARKERS else '', len(values) > MAX_VECTOR_POINTS
            axes.plot(curve.steps, values, marker=marker, label=label, rasterized=is_long)
        for mark in marks:
            axes.axvline(mark, color=TEXT_COLOR, linestyle='--', linewidth=1, alpha=0.6)
        figure.legend(loc='outside lower left', ncols=2, frameon=False)
        figure.savefig(stream, format='svg', dpi=150, transparent=True, metadata={'Creator': None, 'Date': None})
    svg = stream.getvalue()
    svg = re.sub(r' id="[a-z0-9.]+_\d+"', '', svg[svg.index('<svg') :])  # the same ids stand in every chart
    return svg.replace(TEXT_COLOR, 'currentColor')


def read_pictures(sessions: Sequence[Session]) -> dict[str, dict[int, str]]:
    """By name and step, the first and the latest picture that a visualizer wrote: a data URI, or what is wrong with it.

    A later session wins where name and step are the same.
    """
    files: dict[str, dict[int, Path]] = defaultdict(dict)
    for session in sessions:
        folder = session.folder / FOLDER / 'vis_image'
        for path in sorted(folder.rglob('*.png')):
            match = re.fullmatch(r'(.*)_(\d+)', path.relative_to(folder).with_suffix('').as_posix())
            if match:
                files[match[1]][int(match[2])] = path
    return {
        name: {step: read_picture(steps[step]) for step in sorted({min(steps), max(steps)})}
        for name, steps in list(files.items())[:MAX_NAMES]
    }


def read_picture(path: Path) -> str:
    try:
        content, image_type = path.read_bytes(), 'png'
        with Image.open(path) as image:
            image.load()
            if len(content) > MAX_BYTES:
                image.thumbnail((MAX_SIDE, MAX_SIDE))
                stream = io.BytesIO()
                image.convert('RGB').save(stream, 'JPEG', quality=88)
                content, image_type = stream.getvalue(), 'jpeg'
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow's, of broken chunks too
        return f'{path.name} cannot be read: {error}'
    return f'data:image/{image_type};base64,{base64.b64encode(content).decode()}'


def _read_config(sessions: Sequence[Session], work_dir: Path) -> str:
    """The last config that a session saved, or else the newest in the work directory; without secrets."""
    files = [session.folder / FOLDER / 'config.py' for session in reversed(sessions)]
    files += sorted(work_dir.glob('*.py'), key=lambda path: path.stat().st_mtime, reverse=True)
    file = next((path for path in files if path.is_file()), None)
    return hide_secrets(file.read_text(encoding='utf-8', errors='replace')) if file else ''
