"""The page of the demonstration, index.html: every stage's curves and pictures, and at the end the table."""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from plans import Plan
from stages import Progress, Stage

from beit_mm.files import atomic_write
from beit_mm.visualization.report.page import draw_chart, read_picture, read_pictures

REFRESH = 10  # seconds, of the browser


def write_page(path: Path, plan: Plan, pictures: dict[str, Path], table: Sequence, state: str) -> None:
    """Write the page, also while stages run.

    Args:
        path: of the page.
        plan: with the title, the stages and the notes.
        pictures: files by their titles, shown first.
        table: rows for the end; none before.
        state: what goes on; '' at the end, after which browsers do not read the page again.
    """
    template = Path(__file__).with_name('page.html').read_text(encoding='utf-8')
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    content = dict(
        refresh=REFRESH,
        title=plan.title,
        notes=plan.notes,
        state=state,
        table=table,
        pictures={title: read_picture(file) for title, file in pictures.items()},
        stages=[_describe(stage, path.parent) for stage in plan.stages.values()],
    )
    with atomic_write(path) as temporary:
        temporary.write_text(environment.from_string(template).render(content), encoding='utf-8')


def _describe(stage: Stage, root: Path) -> dict:
    progress = stage.read()
    done, total = progress.steps
    report = stage.folder / 'report.html'
    return dict(
        title=stage.title,
        text=stage.text,
        steps=f'{done} of {total} steps' if done else 'not started',
        charts=_charts(stage, progress),
        pictures=read_pictures(progress.sessions),
        report=str(report.relative_to(root)) if report.is_file() else '',
    )


_drawn: dict[Path, tuple[tuple, list[str]]] = {}  # charts of every stage, and how far it was when they were drawn


def _charts(stage: Stage, progress: Progress) -> list[str]:
    """SVG of the loss and of the stage's score."""
    names = {'Loss': 'loss', f'{stage.score_text[0].upper()}{stage.score_text[1:]}': stage.score}
    curves = {title: progress.curves[name] for title, name in names.items() if name in progress.curves}
    known = progress.steps, progress.last(stage.score)  # the last test comes after the last step
    if stage.folder not in _drawn or _drawn[stage.folder][0] != known:
        charts = [draw_chart(title, [curve]) for title, curve in curves.items()]
        _drawn[stage.folder] = known, charts
    return _drawn[stage.folder][1]
