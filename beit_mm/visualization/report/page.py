"""The report of a work directory as one HTML page."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from beit_mm.datasets.bad_images import BadImages
from beit_mm.files import atomic_write

from .charts import draw_chart, draw_training_charts
from .logs import current_training, read_sessions, score_curves, Session, training_curves
from .pictures import read_pictures
from .record import FOLDER, Record

MAX_BAD_IMAGES = 20


def write_report(work_dir: Path, path: Path | None = None) -> Path:
    """Write the report of a work directory: a page that needs no other file, no network and no script.

    Args:
        work_dir: of the runs, with a folder of logs each.
        path: the page; by default report.html in the work directory. It is replaced atomically.

    Returns:
        its path.

    Raises:
        UserError: If there are no logs.
        OSError: If the page cannot be written.
    """
    path = path or work_dir / 'report.html'
    page = render(work_dir)
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding='utf-8', errors='replace')
    return path


def report_command(args: Namespace) -> None:
    """The command of tools/analysis_tools/report.py."""
    print(write_report(Path(args.run), args.out and Path(args.out)))


def render(work_dir: Path) -> str:
    """The report of a work directory as HTML.

    Raises:
        UserError: If there are no logs.
    """
    from jinja2 import Environment, StrictUndefined

    content = _collect(work_dir)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(duration=format_duration, number=lambda value: f'{value:.4g}')
    template = Path(__file__).with_name('page.html').read_text(encoding='utf-8')
    return environment.from_string(template).render(content)


def _collect(work_dir: Path) -> dict[str, object]:
    """What the page shows, by the names that page.html uses."""
    sessions = read_sessions(work_dir)
    training = current_training(sessions)
    shown = training or sessions[-1:]
    latest = shown[-1].records[0] if shown[-1].records else shown[-1].train_record
    curves, scores = training_curves(training), score_curves(training)
    starts = [session.train_record.first_iteration for session in training if session.train_record.resumed]
    resumed_at = [iteration for iteration in starts if iteration]
    pictures, num_left_out = read_pictures(shown)
    return dict(
        name=latest.config or next((path.name for path in work_dir.glob('*.py')), work_dir.resolve().name),
        latest=latest,
        last={curve.name: curve.values[-1] for curve in curves},
        scores=scores,
        tests=_tests(sessions),
        charts=draw_training_charts(curves, resumed_at),
        score_charts=[draw_chart(curve.name, [curve]) for curve in scores if len(curve.steps) > 1],
        resumed_at=resumed_at,
        pictures=pictures,
        num_left_out=num_left_out,
        seconds=_sum_seconds(shown),
        sessions=sessions,
        shown=shown,
        config=_read_config(shown, work_dir),
        bad_images=BadImages(1, work_dir / 'bad_images.txt').names(),
        max_bad_images=MAX_BAD_IMAGES,
    )


def format_duration(seconds: float) -> str:
    """Such as `2 h 05 min`, `3 min 20 s`, `1.25 s` or `40 ms`."""
    if seconds < 1:
        return f'{1000 * seconds:.0f} ms'
    if seconds < 60:
        return f'{seconds:.3g} s'
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
            scores = {curve.name: curve.values[-1] for curve in score_curves([session])}
            tests.append((session.folder.name, records['val'], scores))
    return tests


def _sum_seconds(sessions: Sequence[Session]) -> dict[str, float]:
    """Wall time of every part of all runs, the longest part first, 'the rest' last."""
    total: dict[str, float] = {}
    for record in (record for session in sessions for record in session.records):
        for part, seconds in record.seconds.items():
            total[part] = total.get(part, 0.0) + seconds
    return {part: total[part] for part in sorted(total, key=lambda part: (part == 'the rest', -total[part]))}


def _read_config(sessions: Sequence[Session], work_dir: Path) -> str:
    """The last config that a session saved, or else the newest in the work directory."""
    files = [session.folder / FOLDER / 'config.py' for session in reversed(sessions)]
    files += sorted(work_dir.glob('*.py'), key=lambda path: path.stat().st_mtime, reverse=True)
    file = next((path for path in files if path.is_file()), None)
    return file.read_text(encoding='utf-8', errors='replace') if file else ''
