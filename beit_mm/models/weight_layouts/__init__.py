"""The names of BEiT's weights in each implementation, and renaming to and from ours.

This package knows names and shapes of tensors. It imports no models and reads no files.
"""

from .layout import INDEX, Layout, Moves, task_of
from .tables import find_layouts, LAYOUTS, OPENMMLAB

__all__ = ['INDEX', 'LAYOUTS', 'OPENMMLAB', 'Layout', 'Moves', 'find_layouts', 'task_of']
