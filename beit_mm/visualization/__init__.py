"""Pictures of what the models see, mask, attend to and predict."""

from .attention import attention_figure, attention_maps, grid_points, point_attention_maps
from .reconstruction import draw_reconstructions, reconstruct_batch
from .sheets import draw_sheet, segmentation_panel

__all__ = [
    'attention_figure',
    'attention_maps',
    'draw_reconstructions',
    'draw_sheet',
    'grid_points',
    'point_attention_maps',
    'reconstruct_batch',
    'segmentation_panel',
]
