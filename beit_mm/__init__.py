"""BEiT for MMEngine: importing the package registers every component under the scope ``beit_mm``, and the names of
our models in MMPretrain's list.
"""

import io
import os
import signal
import sys
import warnings
from contextlib import redirect_stdout

from .version import __version__

__all__ = ['__version__', 'checkpoint', 'datasets', 'engine', 'evaluation', 'hub', 'models']

# Warnings that ask nothing of a user: the hosts', of an extra that nothing here needs, of MMCV's own call of its own
# function, and of pictures that are off by default; Pillow's, of large images, for which LoadImage has its own limit.
NOISE = (
    'Fail to import ``MultiScaleDeformableAttention``',
    "Only use 'alpha' for pillow backend",
    'The draw is False, it means that the hook for visualization will not take effect',
    r'Image size \(\d+ pixels\) exceeds limit',
)


def register() -> None:
    """Import everything that registers a component. The first time takes seconds, for torch and the hosts."""
    # At every import the hosts tell of an extra that nothing here needs. What else they print goes to standard error,
    # as standard output is for results.
    for message in NOISE:
        warnings.filterwarnings('ignore', message)
    with redirect_stdout(io.StringIO()) as printed:
        from mmengine.config.utils import MODULE2PACKAGE

        from . import checkpoint, datasets, engine, evaluation, hub, models  # noqa: F401
    sys.stderr.write(printed.getvalue().replace('Could not import OneDL\n', ''))
    # Lets a config of another project name ours in `_base_`: 'beit_mm::folder/file.py'.
    MODULE2PACKAGE['beit_mm'] = 'beit_mm'


# Python imports the package before it runs `beit-mm` or `python -m beit_mm`, which answer `--help` at once and register
# when a command runs. A worker that such a process spawns was started in another way, so it registers here.
_started = sys.orig_argv[1:3]
if _started != ['-m', 'beit_mm'] and not (_started and _started[0].endswith('/beit-mm')):
    register()
elif signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # until a command runs; not ignored, as by nohup
    signal.signal(signal.SIGINT, lambda *_: (os.write(2, b'interrupted\n'), os._exit(130)))
