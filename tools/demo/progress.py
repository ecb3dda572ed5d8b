"""The progress of stages: a bar for each on a terminal, elsewhere a line every ten seconds."""

import os
import time

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bars
from stages import Stage

from beit_mm.visualization.report.page import format_duration

LINE_INTERVAL = 10.0  # seconds


class Show:
    """Shows how far stages are; `update` is called again and again while they run."""

    def __init__(self, stages: list[Stage]):
        console = Console()
        self.is_live = console.is_terminal and os.environ.get('TERM') != 'dumb'
        columns = (TextColumn('{task.description:<28}'), BarColumn(24), TextColumn('{task.fields[text]}'))
        # Without a thread, because processes are forked.
        self.bars = Bars(*columns, console=console, auto_refresh=False, disable=not self.is_live)
        self.tasks = {stage.title: self.bars.add_task(stage.title, total=None, text='') for stage in stages}
        self.last_line = time.monotonic()
        self.seen: dict[str, tuple[float, int]] = {}  # when the first steps of a stage were seen, and how many
        self.texts: dict[str, str] = {}
        self.bars.start()

    def update(self, stage: Stage) -> None:
        """Read what a stage has logged."""
        progress = stage.read()
        done, total = progress.steps
        score, now = progress.last(stage.score), time.monotonic()
        # What comes before the first steps tells nothing of those that follow, and so do the steps of an older run.
        if done and done < self.seen.get(stage.title, (now, done + 1))[1]:
            self.seen[stage.title] = now, done
        since, first = self.seen.get(stage.title, (now, done))
        parts = ['starts'] if not done else [f'{done} of {total} steps']
        if done and first < done < total:
            parts.append(f'{format_duration(round((now - since) / (done - first) * (total - done)))} left')
        if score is not None:
            parts.append(f'{stage.score_text} {stage.scale * score:.1f} %')
        self.texts[stage.title] = ', '.join(parts)
        task = self.tasks[stage.title]
        self.bars.update(task, total=total or None, completed=done, text=self.texts[stage.title])

    def refresh(self) -> None:
        """Draw the bars, or now and then print their lines."""
        if self.is_live:
            self.bars.refresh()
        elif time.monotonic() - self.last_line >= LINE_INTERVAL:
            self.last_line = time.monotonic()
            for title, text in self.texts.items():
                print(f'{title}: {text}', flush=True)

    def close(self) -> None:
        self.bars.refresh()
        self.bars.stop()
        if not self.is_live:
            for title, text in self.texts.items():
                print(f'{title}: {text}', flush=True)
