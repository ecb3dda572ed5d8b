"""BEiT for MMEngine: importing the package registers every component under the scope ``beit_mm``."""
from mmengine.config.utils import MODULE2PACKAGE

from . import checkpoint, datasets, engine, models
from .version import __version__

# Lets a config of another project name ours in `_base_`: 'beit_mm::folder/file.py'.
MODULE2PACKAGE['beit_mm'] = 'beit_mm'

__all__ = ['__version__', 'checkpoint', 'datasets', 'engine', 'models']
