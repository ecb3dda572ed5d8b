"""Running the tools as a user does."""
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*command: str, cwd: Path = ROOT, ok: bool = True, **variables: str) -> str:
    """Output of a command, which must end well or badly as expected."""
    env = dict(os.environ, PYTHON=sys.executable, OMP_NUM_THREADS='1', PYTHONWARNINGS='ignore',
               CUDA_VISIBLE_DEVICES='', **variables)
    result = subprocess.run([str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True,
                            timeout=300)
    output = result.stdout + result.stderr
    assert (result.returncode == 0) == ok, output[-3000:]
    return output


def tool(name: str, *arguments: str, ok: bool = True) -> str:
    return run(sys.executable, f'tools/{name}.py', *arguments, ok=ok)


def scores(folder: Path) -> dict:
    return json.loads(max(folder.glob('*/*.json'), key=lambda path: path.stat().st_mtime).read_text())
