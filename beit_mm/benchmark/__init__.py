"""How fast ours and the implementations that a user could pick instead are, on the same inputs, in one process."""
from .loading import compare_loading
from .measuring import Row, as_table, compare
from .models import compare_pretraining, compare_segmentation, compare_trunks

__all__ = ['Row', 'as_table', 'compare', 'compare_loading', 'compare_pretraining', 'compare_segmentation',
           'compare_trunks']
