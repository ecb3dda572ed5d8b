"""A Python for tools/dist_train.sh: the launcher loads all modules once, and its ranks are forked from it.

Each of them would import for ten seconds. They are processes of the launcher as otherwise: in sessions of their own,
with their own environment, default signals and no open files but the standard streams.
"""

import os
import runpy
import signal
import sys
import time
from importlib import import_module
from pathlib import Path
from subprocess import TimeoutExpired

from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler


def write_python(path: Path) -> Path:
    """Write the program that stands for `python`."""
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -u {__file__} "$@"\n')
    path.chmod(0o755)
    return path


class Rank:
    """What torchrun needs of a subprocess.Popen."""

    def __init__(self, command: tuple[str, ...], environment: dict[str, str]):
        self.args, self.returncode = command, None
        self.pid = os.fork()
        if self.pid == 0:
            _become(command, environment)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float) -> int:
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                raise TimeoutExpired(self.args, timeout)
            time.sleep(0.05)
        return self.returncode


def _become(command: tuple[str, ...], environment: dict[str, str]) -> None:
    """Run `python -u SCRIPT ...` in this process, and end it."""
    code = 1
    try:
        os.setsid()
        for number in signal.valid_signals():
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        os.closerange(3, 4096)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = list(command[2:])
        sys.path.insert(0, str(Path(sys.argv[0]).parent))
        runpy.run_path(sys.argv[0], run_name='__main__')
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        os._exit(code)


if __name__ == '__main__':
    for name in ('beit_mm.engine.runners.launch', 'matplotlib.figure', 'torch.utils.tensorboard'):
        import_module(name)
    SubprocessHandler._popen = lambda handler, command, environment: Rank(command, environment)
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name='__main__')
