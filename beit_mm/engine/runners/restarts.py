"""How torchrun's restarts after a lost process go on (`--max-restarts`)."""

import json
import os
import signal
import time
from pathlib import Path

from beit_mm.checkpoint.files import Stamps
from beit_mm.files import atomic_write

NOTE = 'checkpoints.json'
WAIT = 3.0  # seconds in which torchrun ends


def is_restart() -> bool:
    """Whether torchrun started this process anew after others had failed."""
    return int(os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)) > 0


def note_checkpoints(stamps: Stamps) -> None:
    """Note which checkpoints are there when torchrun starts the first processes, for those that it may start anew."""
    folder = _folder()
    if folder is not None:
        with atomic_write(folder / NOTE) as temporary:
            temporary.write_text(json.dumps(stamps))


def noted_checkpoints() -> Stamps | None:
    """Checkpoints that were there at the start; None if the first processes ended before they had looked."""
    note = _folder() / NOTE
    return json.loads(note.read_text()) if note.is_file() else None


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
