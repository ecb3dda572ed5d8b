"""Running commands in a project that cannot see the checkout."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from support import ROOT

CONFIGS = ROOT / 'beit_mm' / '.mim' / 'configs'


class Project(NamedTuple):
    """Where the project lies, and where pip put the wheel."""

    folder: Path
    site: Path

    @property
    def mim(self) -> Path:
        """What the wheel carries beside the package: configs, tools and index."""
        return self.site / 'beit_mm' / '.mim'

    def start(self, *command: object) -> subprocess.CompletedProcess:
        """A command that must end well."""
        env = dict(
            os.environ, PYTHONPATH=str(self.site), OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='', PYTHONWARNINGS='ignore'
        )
        result = subprocess.run(
            [str(part) for part in command], cwd=self.folder, env=env, capture_output=True, text=True, timeout=300
        )
        assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
        return result

    def tool(self, name: str, *arguments: object) -> subprocess.CompletedProcess:
        """One of the wheel's tools."""
        return self.start(sys.executable, self.mim / 'tools' / f'{name}.py', *arguments)

    def host_tool(self, host: str, name: str, *arguments: object) -> str:
        """What one of the tools prints that a host's wheel carries."""
        package = Path(importlib.util.find_spec(host).origin).parent
        result = self.start(sys.executable, package / '.mim' / 'tools' / f'{name}.py', *arguments)
        return result.stdout + result.stderr

    def report(self, script: str) -> dict:
        """What a script of the project writes as JSON into the file that it is given."""
        file = self.folder / f'{script}.json'
        self.start(sys.executable, script, file)
        return json.loads(file.read_text())


class Trained(NamedTuple):
    """What a training left."""

    checkpoint: Path
    score: float


def last_score(output: str, name: str) -> float:
    """A score as it stands in the log for the last time."""
    return float(re.findall(rf' {name}: ([\d.]+)', output)[-1])
