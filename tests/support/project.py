"""Run commands in a project that cannot import from the checkout."""

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
    """A project's folder, and the folder where pip installed the wheel."""

    folder: Path
    site: Path

    @property
    def mim(self) -> Path:
        """Configs, tools and model index in the wheel."""
        return self.site / 'beit_mm' / '.mim'

    def start(self, *command: object) -> subprocess.CompletedProcess:
        """Run a command that must succeed."""
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
        """The output of a tool in a host's wheel."""
        package = Path(importlib.util.find_spec(host).origin).parent
        result = self.start(sys.executable, package / '.mim' / 'tools' / f'{name}.py', *arguments)
        return result.stdout + result.stderr

    def report(self, script: str) -> dict:
        """The JSON that a script of the project writes into the file named by its argument."""
        file = self.folder / f'{script}.json'
        self.start(sys.executable, script, file)
        return json.loads(file.read_text())


class Trained(NamedTuple):
    """The checkpoint and the score of a training."""

    checkpoint: Path
    score: float


def last_score(output: str, name: str) -> float:
    """The last value of a score in a log."""
    return float(re.findall(rf' {name}: ([\d.]+)', output)[-1])
