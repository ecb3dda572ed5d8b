"""How torchrun's restarts after a lost process go on (`--max-restarts`)."""

import os
import signal
import time
from pathlib import Path

WAIT = 3.0  # seconds in which torchrun ends


def is_restart() -> bool:
    """Whether torchrun started this process anew after others had failed."""
    return int(os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)) > 0


def launch_time() -> float:
    """When torchrun started the first processes, in seconds since 1970; only under torchrun."""
    return (_folder() / 'attempt_0').stat().st_mtime


def end_restarts() -> None:
    """Before an exit by an error that would only come again: end torchrun, if it would start this process anew."""
    folder = _folder()
    if folder is None or int(os.environ['TORCHELASTIC_MAX_RESTARTS']) == 0:
        return
    try:
        (folder / 'ended').touch(exist_ok=False)
    except FileExistsError:
        time.sleep(WAIT)  # an exit now would start all anew
        return
    time.sleep(WAIT / 3)  # the others, the main process among them, find the same and tell it
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(WAIT)


def _folder() -> Path | None:
    """Torchrun's folder of this launch on this machine; None without torchrun."""
    error_file = os.environ.get('TORCHELASTIC_ERROR_FILE')  # FOLDER/attempt_N/RANK/error.json
    return Path(error_file).parents[2] if error_file else None
