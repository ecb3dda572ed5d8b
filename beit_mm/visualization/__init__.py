"""Pictures of what the models see, mask and predict."""
from .panels import reconstruction_panel, segmentation_panel

__all__ = ['reconstruction_panel', 'segmentation_panel']
