"""Run commands in a project that cannot import from the checkout."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from support import ROOT
from support.tools import VARIABLES

CONFIGS = ROOT / 'beit_mm' / '.mim' / 'configs'


class Project(NamedTuple):
    """A project's folder, and the folder where pip installed the wheel."""

    folder: Path
    site: Path

    @property
    def mim(self) -> Path:
        """Configs, tools and model index in the wheel."""
        return self.site / 'beit_mm' / '.mim'

    def python(self, *arguments: object) -> subprocess.CompletedProcess:
        """Run Python, which must succeed."""
        result = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=self.folder,
            env={**os.environ, **VARIABLES, 'PYTHONPATH': str(self.site)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
        return result

    def tool(self, name: str, *arguments: object) -> str:
        """Standard output of a tool in our wheel."""
        return self.python(self.mim / 'tools' / f'{name}.py', *arguments).stdout

    def host_tool(self, host: str, name: str, *arguments: object) -> str:
        """The output of a tool in a host's wheel."""
        package = Path(importlib.util.find_spec(host).origin).parent
        result = self.python(package / '.mim' / 'tools' / f'{name}.py', *arguments)
        return result.stdout + result.stderr


def last_score(output: str, name: str) -> float:
    """The last value of a score in a log."""
    return float(re.findall(rf' {name}: ([\d.]+)', output)[-1])
