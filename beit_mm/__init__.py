"""BEiT for MMEngine: importing the package registers every component under the scope ``beit_mm``, and the names of
our models in MMPretrain's list.
"""

import io
import os
import signal
import sys
import warnings
from contextlib import redirect_stdout

# Ctrl-C during the imports of `python -m beit_mm`.
if sys.argv[0] == '-m' and 'beit_mm' in sys.orig_argv and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, lambda *_: (os.write(2, b'interrupted\n'), os._exit(130)))

# At every import the hosts tell of two extras that nothing here needs; what else they print goes to standard error,
# as standard output is for results.
warnings.filterwarnings('ignore', 'Fail to import ``MultiScaleDeformableAttention``', UserWarning)
with redirect_stdout(io.StringIO()) as printed:
    from mmengine.config.utils import MODULE2PACKAGE

    from . import checkpoint, datasets, engine, evaluation, hub, models
sys.stderr.write(printed.getvalue().replace('Could not import OneDL\n', ''))

from .version import __version__  # noqa: E402

# Lets a config of another project name ours in `_base_`: 'beit_mm::folder/file.py'.
MODULE2PACKAGE['beit_mm'] = 'beit_mm'

__all__ = ['__version__', 'checkpoint', 'datasets', 'engine', 'evaluation', 'hub', 'models']
