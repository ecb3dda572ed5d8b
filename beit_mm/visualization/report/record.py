"""What a run writes about itself for its report: `TIMESTAMP/vis_data/run_PURPOSE.json` in the work directory."""

import importlib
import json
import platform
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from mmengine.utils import get_git_hash

from beit_mm.files import atomic_write
from beit_mm.hiding import hide_in_command, hide_secrets
from beit_mm.version import __version__

FOLDER = 'vis_data'
LIBRARIES = ('torch', 'torchvision', 'mmengine', 'mmcv', 'mmpretrain', 'mmseg', 'numpy')


@dataclass
class Record:
    """One training, validation or test from its start to its end."""

    purpose: str  # 'train', 'val' or 'test'
    config: str = ''  # file name
    command: list[str] = field(default_factory=list)
    started: str = ''  # local time, `2026-01-31 12:00:00`
    ended: str = ''  # '' while the state is 'running'
    state: str = 'running'  # or 'finished', 'stopped' or 'failed'; a run that was killed stays 'running'
    message: str = ''  # why it stopped or failed
    first_iteration: int = 0  # how many were complete at the start
    first_epoch: int = 0
    iteration: int = 0  # how many are complete
    epoch: int = 0
    max_iterations: int = 0  # of the whole training
    score_unit: str = 'iteration'  # or 'epoch': what scores of validations are logged over
    source: str = ''  # checkpoint that was resumed or loaded
    resumed: bool = False
    num_processes: int = 1
    model: dict[str, str] = field(default_factory=dict)  # names and sizes of the parts
    versions: dict[str, str] = field(default_factory=dict)  # of libraries, devices and code
    class_scores: dict[str, dict[str, float]] = field(default_factory=dict)  # of the last evaluation
    seconds: dict[str, float] = field(default_factory=dict)  # wall time of every part

    def write(self, log_dir: Path) -> None:
        """Write the record into the folder of the run's logs, atomically and without secrets."""
        with atomic_write(log_dir / FOLDER / f'run_{self.purpose}.json') as temporary:
            temporary.write_text(json.dumps(_hide(asdict(self)), indent=1), encoding='utf-8')


def read_record(path: Path) -> Record | None:
    """Read a record, without secrets; None if the file is damaged. Fields of later versions are ignored."""
    try:
        content = _hide(json.loads(path.read_text(encoding='utf-8')))
        known = {entry.name for entry in fields(Record)}
        return Record(**{key: value for key, value in content.items() if key in known})
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def _hide(content: Any) -> Any:
    if isinstance(content, str):
        return hide_secrets(content)
    if isinstance(content, dict):
        return {key: _hide(value) for key, value in content.items()}
    return hide_in_command(content) if isinstance(content, list) else content


def versions() -> dict[str, str]:
    """Versions of libraries, Python, system and devices. MMEngine's collect_env takes seconds: it starts compilers."""
    described = {'beit_mm': __version__} | {name: importlib.import_module(name).__version__ for name in LIBRARIES}
    described |= {'Python': platform.python_version(), 'system': platform.platform()}
    if torch.cuda.is_available():
        described['GPUs'] = f'{torch.cuda.device_count()} x {torch.cuda.get_device_name()}'
        described['CUDA, cuDNN'] = f'{torch.version.cuda}, {torch.backends.cudnn.version()}'
    else:
        described['device'] = f'CPU, threads: {torch.get_num_threads()}'
    commit = get_git_hash(fallback='')
    return {**described, 'git commit of the working directory': commit} if commit else described
