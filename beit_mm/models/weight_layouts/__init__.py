"""The names that each implementation gives to BEiT's weights, and the way to and from ours.

A leaf like the registry: it knows names and shapes of tensors, no models and no files.
"""

from .layout import INDEX, kind_of, Layout
from .tables import LAYOUTS, OPENMMLAB, READABLE

__all__ = ['INDEX', 'LAYOUTS', 'OPENMMLAB', 'READABLE', 'Layout', 'kind_of']
