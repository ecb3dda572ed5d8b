"""Errors that a user can fix, and the end of a training by a signal."""

import re


class UserError(ValueError):
    """A mistake in a config, a file or an argument. The tools print its message alone, without a traceback."""


class OutOfMemory(RuntimeError):
    """Too little memory on the device or for the loader's workers; says what to change."""


class TrainingStopped(SystemExit):
    """A signal ended the training; the message names the checkpoint. The exit code is 0, or 130 for SIGINT."""

    def __init__(self, message: str, exit_code: int = 0):
        super().__init__(exit_code)
        self.message = message


def describe_shortage(error: RuntimeError) -> str | None:
    """The first two sentences of torch's error about too little memory; None for other errors."""
    if not re.search("out of memory|can't allocate memory", str(error)):
        return None
    return '. '.join(str(error).splitlines()[0].split('. ')[:2])
