"""BEiT for MMEngine: importing the package registers every component under the scope ``beit_mm``."""
__version__ = '0.1.0'

from . import checkpoint, datasets, engine, models  # noqa: E402,F401
