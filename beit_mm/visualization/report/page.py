"""The page: what page.html is filled with."""

import base64
import hashlib
from argparse import Namespace
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from beit_mm.datasets.bad_images import BadImages
from beit_mm.files import atomic_write

from . import charts
from .history import score_curves, summarise, training_curves
from .pictures import read_pictures
from .record import FOLDER, Record
from .sessions import current, read_sessions, Session

FILE = 'report.html'
NUM_BAD_SHOWN = 20
AREA = dict(
    width=charts.WIDTH, height=charts.HEIGHT, left=charts.LEFT, right=charts.RIGHT, top=charts.TOP, bottom=charts.BOTTOM
)


def write_report(work_dir: Path, path: Path | None = None) -> Path:
    """Write the page of a work directory; it needs no other file, no network and no script.

    Args:
        work_dir: of the runs, with a folder of logs each.
        path: the page; by default report.html in the work directory. A reader finds the old page or the new one, whole.

    Returns:
        its path.

    Raises:
        ValueError: If there are no logs.
        OSError: If the page cannot be written.
    """
    path = path or work_dir / FILE
    page = render(work_dir)
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding='utf-8', errors='replace')
    return path


def report_command(args: Namespace) -> None:
    """tools/report.py."""
    print(write_report(Path(args.run), args.out and Path(args.out)))


def render(work_dir: Path) -> str:
    """The page of a work directory as HTML.

    Raises:
        ValueError: If there are no logs.
    """
    environment = _environment()
    style, script = (environment.loader.get_source(environment, f'page.{kind}')[0] for kind in ('css', 'js'))
    # With it no other script runs, whatever a name or a config holds.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template('page.html').render(
        style=Markup(style), script=Markup(script), digest=digest, area=AREA, **_content(work_dir)
    )


@lru_cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(__package__, ''),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(short=charts.short, duration=duration)
    return environment


def _content(work_dir: Path) -> dict[str, object]:
    sessions = read_sessions(work_dir)
    training = current(sessions)
    latest = _latest_record(training or sessions)
    curves, scored = training_curves(training), score_curves(training)
    shown = training or sessions[-1:]
    pictures, num_left_out = read_pictures(shown)
    resumed_at = [session.train_record.first_iteration for session in training if session.train_record.resumed]
    last = {curve.name: float(curve.y[-1]) for curve in curves}
    return dict(
        name=latest.config or next((path.name for path in work_dir.glob('*.py')), work_dir.resolve().name),
        latest=latest,
        epochs=latest.epoch if latest.score_unit == 'epoch' else 0,
        last=last,
        scores=summarise(scored),
        tests=_tests(sessions),
        charts=charts.training_charts(curves, [step for step in resumed_at if step]),
        score_charts=charts.score_charts(scored),
        pictures=pictures,
        num_left_out=num_left_out,
        seconds=_shares(shown),
        runs=[
            (session, record)
            for session in sessions
            for record in session.records or ([session.train_record] if session.training else [])
        ],
        is_current={session.name for session in shown},
        config=_config(shown, work_dir),
        bad_images=BadImages(1, work_dir / 'bad_images.txt').names(),
        num_bad_shown=NUM_BAD_SHOWN,
    )


def duration(seconds: float) -> str:
    """Such as `2 h 05 min`, `3 min 20 s`, `1.25 s` or `40 ms`."""
    if seconds < 1:
        return f'{1000 * seconds:.0f} ms'
    if seconds < 60:
        return f'{seconds:.3g} s'
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours} h {minutes:02} min' if hours else f'{minutes} min {rest:02} s'


def _latest_record(sessions: Sequence[Session]) -> Record:
    last = sessions[-1]
    return last.records[0] if last.records else last.train_record


def _tests(sessions: Sequence[Session]) -> list[tuple[Session, Record, dict[str, float]]]:
    """Scores of all tests, and of validations without a training."""
    tests = []
    for session in sessions:
        records = {record.purpose: record for record in session.records}
        if session.test:
            tests.append((session, records.get('test', Record('test')), session.test))
        if 'val' in records:
            tests.append(
                (session, records['val'], {score.name: score.last for score in summarise(score_curves([session]))})
            )
    return tests


def _shares(sessions: Sequence[Session]) -> list[tuple[str, float, float]]:
    """Of every part of the runs: seconds, and its share of all in percent; the longest first, the rest last."""
    seconds: dict[str, float] = {}
    for session in sessions:
        for record in session.records:
            for part, spent in record.seconds.items():
                seconds[part] = seconds.get(part, 0.0) + spent
    total = sum(seconds.values()) or 1.0
    parts = sorted(seconds, key=lambda part: (part == 'the rest', -seconds[part]))
    return [(part, seconds[part], 100 * seconds[part] / total) for part in parts]


def _config(sessions: Sequence[Session], work_dir: Path) -> str:
    """Text of the last config that a session kept, or else the one that the runner left in the work directory."""
    files = [session.folder / FOLDER / 'config.py' for session in reversed(sessions)]
    files += sorted(work_dir.glob('*.py'), key=lambda path: path.stat().st_mtime, reverse=True)
    found = next((path for path in files if path.is_file()), None)
    return found.read_text(encoding='utf-8', errors='replace') if found else ''
