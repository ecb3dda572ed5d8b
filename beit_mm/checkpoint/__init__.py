"""Reading weights files: turns any file into a plain dict without executing anything in it.

Importing this package gives MMEngine's CheckpointLoader the same reader, for runners, host tools and inferencers.
"""

from . import sources  # noqa: F401, registers
from .reading import read_checkpoint

__all__ = ['read_checkpoint']
