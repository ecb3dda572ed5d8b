"""Errors and warnings about what a user can fix, and the end of a training by a signal."""

import re
import site
import sysconfig
import traceback
from pathlib import Path

SHORTAGE = "out of memory|can't allocate memory|Unable to allocate|CUBLAS_STATUS_ALLOC_FAILED"


class UserError(ValueError):
    """A mistake in a config, a file or an argument. The tools print its message alone, without a traceback."""


class UnreadOption(UserWarning):
    """An option that changes nothing. The commands and tools print its message alone."""


class OutOfMemory(RuntimeError):
    """Too little memory on the device or for the loader's workers; says what to change."""


class TrainingStopped(SystemExit):
    """A signal ended the training; the message names the checkpoint. The exit code is 0, or 130 for SIGINT."""

    def __init__(self, message: str, exit_code: int = 0):
        super().__init__(exit_code)
        self.message = message


def describe_shortage(error: BaseException) -> str | None:
    """The first two sentences of torch's or numpy's error about too little memory; None for other errors."""
    if not isinstance(error, (RuntimeError, MemoryError)):
        return None
    lines = str(error).splitlines() or ['out of memory']
    line = lines[-1] if lines[0].startswith('Caught ') else lines[0]  # of a loader's worker, with its traceback
    if not isinstance(error, MemoryError) and not re.search(SHORTAGE, str(error)):
        return None
    return '. '.join(line.split('. ')[:2])


def describe_bad_data(error: BaseException) -> str | None:
    """What a host's data set says of files or classes that it cannot use, and which one; None for other errors."""
    frames = list(traceback.walk_tb(error.__traceback__))
    if not frames or not isinstance(error, (AssertionError, RuntimeError, ValueError)):
        return None
    frame = frames[-1][0]  # where it was raised
    dataset, module = frame.f_locals.get('self'), frame.f_globals.get('__name__', '')
    if not re.match(r'(mmengine\.dataset|(mmpretrain|mmseg)\.datasets)\.(?!transforms|samplers)', module):
        return None
    prefix = getattr(dataset, 'data_prefix', None)
    folder = next(iter(prefix.values()), '') if isinstance(prefix, dict) else prefix
    what = type(dataset).__name__ + (f' of {folder}' if folder else '')
    return f'{what}: {" ".join(str(error).split())}' if str(error) else None


def find_own_code(trace: str, *others: Path) -> str | None:
    """File and line of the user's own code that raised an error, of the text of a traceback.

    None if beit_mm, code in one of the other folders, or a package that they called raised it.
    """
    packages = [sysconfig.get_path('stdlib'), *site.getsitepackages(), site.getusersitepackages()]
    for file, line in reversed(re.findall(r'File "(.+)", line (\d+)', trace)):  # innermost first
        path = Path(file)
        if path.is_file() and not any(path.is_relative_to(folder) for folder in packages):
            is_own = not any(path.is_relative_to(folder) for folder in (Path(__file__).parent, *others))
            return f'{file}, line {line}' if is_own else None
    return None


def hint_at_bands(number: int) -> str:
    """How images are loaded with this number of bands."""
    kind, bands = {1: ('grayscale', 'one band'), 3: ('color', 'three bands')}.get(number, ('unchanged', 'all bands'))
    return f'color_type={kind!r} of beit_mm.LoadImage loads {bands} of a file'
