"""The run of a demonstration: data, stages in processes of their own, the page and the table."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

# The processes are forked, so that they need not import these again.
import matplotlib.figure  # noqa: F401
import mmpretrain.datasets  # noqa: F401
import mmseg.datasets  # noqa: F401
import torch.utils.tensorboard  # noqa: F401
from figures import DATA, draw_data, Row
from mmengine.logging import MMLogger
from page import write_page
from plans import Plan
from progress import Show

PAGE_INTERVAL = 10.0  # seconds
CORES = len(os.sched_getaffinity(0))
# What interrupts the demonstration, and what a process of a stage does by default.
SIGNALS = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


class Demonstration:
    """Trains what is not there yet of a plan, and writes index.html, table.md and pictures into a folder.

    Args:
        root: the folder.
        plan: what to train and to show.
        start: when the command started, in seconds since the epoch.
    """

    def __init__(self, root: Path, plan: Plan, start: float):
        self.root, self.plan, self.start = root, plan, start
        self.stages = plan.stages
        self.pictures: dict[str, Path] = {}
        self.processes: list[multiprocessing.Process] = []
        self.is_interrupted = False

    def run(self) -> None:
        """Run all; an interruption ends the processes, whose trainings save their checkpoints."""
        _handle_signals(dict.fromkeys(SIGNALS, self._note_interruption))
        try:
            self._run()
        finally:
            for process in self.processes:
                if process.is_alive():
                    process.terminate()
                    process.join()

    def _run(self) -> None:
        is_whole = not any(any(stage.folder.glob('*')) for stage in self.stages.values())
        self._write_page('Making the data.')
        self._wait({name: self._start(write, DATA / name) for name, write in self.plan.data.items()})
        draw_data(self.root / 'data.png', self.plan.data)
        self.pictures['Data'] = self.root / 'data.png'
        for names in self.plan.rounds:
            self._train([name for name in names if not self.stages[name].is_done])
        self._write_page('Drawing.')
        MMLogger.get_current_instance().setLevel('WARNING')  # which weights are loaded is in the trainings' logs
        self.pictures = self.plan.draw() | self.pictures
        table = self.plan.finish((time.time() - self.start) / 60 if is_whole else None)
        head, *rows = [f'| {" | ".join(cells)} |' for cells in table]
        notes = [line for note in self.plan.notes for line in ('', note)]
        lines = [head, '| --- ' * len(table[0]) + '|', *rows, *notes]
        (self.root / 'table.md').write_text('\n'.join(lines) + '\n')
        self._write_page('', table)
        print('\n'.join(['', *lines, '', f'Pictures, curves and this table: {self.root / "index.html"}']))

    def _train(self, names: list[str]) -> None:
        """Train stages at the same time; ends with the last lines of one that fails."""
        if not names:
            return
        stages = [self.stages[name] for name in names]
        show = Show(stages)
        running = {stage.title: self._start(stage.train, max(1, CORES // len(names))) for stage in stages}
        written = time.monotonic()

        def look() -> None:
            nonlocal written
            for stage in stages:
                show.update(stage)
            show.refresh()
            if time.monotonic() - written > PAGE_INTERVAL:
                self._write_page(f'{" and ".join(running)}.')
                written = time.monotonic()

        try:
            self._wait(running, look)
        finally:
            show.close()
        for stage in stages:
            if not stage.is_done:
                text = '\n'.join(stage.log.read_text(errors='replace').splitlines()[-20:])
                sys.exit(f'{text}\n{stage.title} failed; all of it: {stage.log}')

    def _start(self, function: Callable, *args: object) -> multiprocessing.Process:
        process = multiprocessing.get_context('fork').Process(target=_run_in_child, args=(function, *args))
        process.start()
        self.processes.append(process)
        return process

    def _wait(self, running: dict[str, multiprocessing.Process], look: Callable[[], None] = lambda: None) -> None:
        while any(process.is_alive() for process in running.values()) and not self.is_interrupted:
            look()
            time.sleep(1)
        if self.is_interrupted:
            raise KeyboardInterrupt
        look()

    def _note_interruption(self, number: int, frame: object) -> None:
        """Only notes it: an exception raised here is lost when Python is within a destructor or a callback."""
        self.is_interrupted = True
        signal.signal(number, signal.default_int_handler)  # a second one ends at once

    def _write_page(self, state: str, table: list[Row] = ()) -> None:
        write_page(self.root / 'index.html', self.plan, self.pictures, table, state)


def _handle_signals(handlers: dict[signal.Signals, Callable]) -> None:
    """Set handlers of signals that are not ignored, as they are under nohup."""
    for number, handler in handlers.items():
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def _run_in_child(function: Callable, *args: object) -> None:
    """Run it with the default handlers, so that `terminate` ends it; an interruption needs no traceback."""
    _handle_signals(SIGNALS)
    try:
        function(*args)
    except KeyboardInterrupt:
        sys.exit(130)
