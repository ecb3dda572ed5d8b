"""Running the tools as a user does."""

import json
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[2]
TIMEOUT = 300  # seconds
VARIABLES = dict(PYTHON=sys.executable, OMP_NUM_THREADS='1', PYTHONWARNINGS='ignore', CUDA_VISIBLE_DEVICES='')


def run(*command: str, cwd: Path = ROOT, ok: bool = True, **variables: str) -> str:
    """Output of a command, which must end well or badly as expected."""
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **VARIABLES, **variables},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    output = result.stdout + result.stderr
    assert (result.returncode == 0) == ok, output[-3000:]
    return output


def tool(name: str, *arguments: str, ok: bool = True) -> str:
    """Output of a tool, which must end well or badly as expected.

    Its process begins as a copy of one that has imported beit_mm and nothing else, and configs are printed as they
    come: the import and the layout of printed configs take most of the time of most tools.
    """
    processes = multiprocessing.get_context('forkserver')
    processes.set_forkserver_preload(['beit_mm'])
    with tempfile.NamedTemporaryFile('r') as output:
        process = processes.Process(target=_run_tool, args=(name, [str(part) for part in arguments], output.name))
        process.start()
        process.join(TIMEOUT)
        if process.is_alive():
            process.kill()
        text = output.read()
    assert (process.exitcode == 0) == ok, f'exit code {process.exitcode}: {text[-3000:]}'
    return text


def _run_tool(name: str, arguments: list[str], output: str) -> None:
    import torch

    from support.runners import leave_text_as_it_is

    leave_text_as_it_is()
    stream = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    os.environ.update(VARIABLES)
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    os.chdir(ROOT)
    sys.argv = [f'tools/{name}.py', *arguments]
    runpy.run_path(sys.argv[0], run_name='__main__')


def scores(folder: Path) -> dict:
    return json.loads(max(folder.glob('*/*.json'), key=lambda path: path.stat().st_mtime).read_text())
