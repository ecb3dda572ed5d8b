"""Models as files for other programs: ONNX, torch.export and safetensors, each compared with the model it came from."""

from .exporting import export, Report
from .formats import FORMATS
from .parts import PARTS

__all__ = ['FORMATS', 'PARTS', 'Report', 'export']
