"""The runs of a work directory: what their logs, scores and records hold."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from .record import FOLDER, read_record, Record

SCALARS = f'{FOLDER}/scalars.json'
NO_SCORES = {'step', 'time', 'data_time', 'memory', 'iter', 'epoch'}
Line = dict[str, float]


@dataclass
class Session:
    """One folder of logs, `WORK_DIR/TIMESTAMP`.

    Attributes:
        folder: its path.
        records: what its runs noted, trainings first; empty without a ReportHook.
        training: logged numbers of training steps, in their order.
        scores: what validations logged, over epochs or iterations.
        observed: numbers that hooks logged one by one, over iterations, such as `codebook/used` and `knn/top1`.
        test: scores of a test.
    """

    folder: Path
    records: list[Record]
    training: list[Line]
    scores: list[Line]
    observed: list[Line]
    test: dict[str, float]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def train_record(self) -> Record:
        """Of its training; without one, what its log tells."""
        found = [record for record in self.records if record.purpose == 'train']
        if found:
            return found[0]
        steps = [int(line['step']) for line in self.training] or [1]
        # A log alone does not tell a new training from one that was resumed: it goes on where its lines begin.
        return Record('train', first_iteration=steps[0] - 1, iteration=steps[-1], resumed=True)


def read_sessions(work_dir: Path) -> list[Session]:
    """All folders of logs in a work directory, the oldest first.

    Raises:
        ValueError: If there are none.
    """
    folders = sorted(path.parent for path in work_dir.glob(f'*/{FOLDER}') if path.is_dir())
    sessions = [_read(folder) for folder in folders]
    sessions = [
        session
        for session in sessions
        if session.records or session.training or session.scores or session.observed or session.test
    ]
    if not sessions:
        raise ValueError(
            f'{work_dir} must be the work directory of a run, with logs in TIMESTAMP/{SCALARS}; '
            f'{"it has none" if work_dir.is_dir() else "there is no such folder"}'
        )
    return sessions


def current(sessions: list[Session]) -> list[Session]:
    """The sessions that one training consists of: the last that began anew, and those after it."""
    trainings = [
        session
        for session in sessions
        if session.training or any(record.purpose == 'train' for record in session.records)
    ]
    begun = [place for place, session in enumerate(trainings) if not session.train_record.resumed]
    return trainings[begun[-1] :] if begun else trainings


def _read(folder: Path) -> Session:
    records = [read_record(path) for path in sorted(folder.glob(f'{FOLDER}/run_*.json'))]
    records = sorted((record for record in records if record), key=lambda record: record.purpose != 'train')
    return Session(folder, records, *_read_scalars(folder / SCALARS), _read_test(folder / f'{folder.name}.json'))


def _read_scalars(path: Path) -> tuple[list[Line], list[Line], list[Line]]:
    """Lines of training steps, which have a loss; of validations, which are timed too; and the others."""
    training, scores, observed = [], [], []
    if not path.is_file():
        return training, scores, observed
    with open(path, encoding='utf-8', errors='replace') as file:
        for text in file:
            line = _numbers(text)
            if 'step' in line and math.isfinite(line['step']):
                (training if 'loss' in line else scores if 'time' in line else observed).append(line)
    return training, scores, observed


def _read_test(path: Path) -> dict[str, float]:
    if not path.is_file():
        return {}
    scores = _numbers(path.read_text(encoding='utf-8', errors='replace'))
    return {name: value for name, value in scores.items() if name not in NO_SCORES}


def _numbers(text: str) -> Line:
    """The numbers of a JSON object, those that are not finite among them; none of a line that a kill cut off."""
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    if not isinstance(content, dict):
        return {}
    return {
        name: value
        for name, value in content.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
