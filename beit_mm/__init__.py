"""BEiT for MMEngine: importing the package registers every component under the scope ``beit_mm``."""
from . import checkpoint, datasets, engine, models
from .version import __version__

__all__ = ['__version__', 'checkpoint', 'datasets', 'engine', 'models']
