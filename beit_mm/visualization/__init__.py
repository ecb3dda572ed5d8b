"""Pictures of what the models see, mask, attend to and predict."""

from .attention import attention_maps, grid_points, point_attention_maps
from .attention_figure import attention_figure
from .panels import segmentation_panel
from .reconstruction import draw_reconstructions, reconstruct_batch, Reconstruction, reconstruction_panel

__all__ = [
    'Reconstruction',
    'attention_figure',
    'attention_maps',
    'draw_reconstructions',
    'grid_points',
    'point_attention_maps',
    'reconstruct_batch',
    'reconstruction_panel',
    'segmentation_panel',
]
