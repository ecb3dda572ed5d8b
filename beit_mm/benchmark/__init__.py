"""How fast ours and the implementations that a user could pick instead are, on the same inputs, in one process."""

from .limits import compare_limits
from .loading import compare_loading
from .measuring import as_table, compare, Row
from .pretraining import compare_pretraining
from .scaling import compare_scaling
from .sections import SECTIONS, Sizes
from .segmentation import compare_segmentation
from .trunks import compare_trunks

__all__ = [
    'Row',
    'SECTIONS',
    'Sizes',
    'as_table',
    'compare',
    'compare_limits',
    'compare_loading',
    'compare_pretraining',
    'compare_scaling',
    'compare_segmentation',
    'compare_trunks',
]
