"""BEiT for MMEngine: importing the package registers every component under the scope ``beit_mm``."""

import sys
from contextlib import redirect_stdout

from mmengine.config.utils import MODULE2PACKAGE

with redirect_stdout(sys.stderr):  # the hosts print while they are imported; standard output is for results
    from . import checkpoint, datasets, engine, evaluation, models
from .version import __version__

# Lets a config of another project name ours in `_base_`: 'beit_mm::folder/file.py'.
MODULE2PACKAGE['beit_mm'] = 'beit_mm'

__all__ = ['__version__', 'checkpoint', 'datasets', 'engine', 'evaluation', 'models']
