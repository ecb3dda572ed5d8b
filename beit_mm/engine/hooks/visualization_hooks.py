"""The hosts' hooks that draw predictions, for images of any bands and bits: they take pictures of three bands."""

import os
from collections.abc import Sequence

import torch
from mmpretrain.engine.hooks import VisualizationHook as HostVisualizationHook
from mmseg.engine.hooks import SegVisualizationHook as HostSegVisualizationHook

from beit_mm.datasets.images import read_any
from beit_mm.registry import HOOKS
from beit_mm.visualization.sheets import to_picture


@HOOKS.register_module()
class VisualizationHook(HostVisualizationHook):
    """MMPretrain's VisualizationHook; of other images than BGR of 8 bits it draws what `to_picture` gives."""

    def _draw_samples(self, batch_idx: int, data_batch: dict, data_samples: Sequence, step: int = 0) -> None:
        if self.enable:
            pictures = [to_picture(image.permute(1, 2, 0).cpu().numpy()).copy() for image in data_batch['inputs']]
            inputs = [torch.from_numpy(picture).permute(2, 0, 1) for picture in pictures]
            super()._draw_samples(batch_idx, dict(data_batch, inputs=inputs), data_samples, step)


@HOOKS.register_module()
class SegVisualizationHook(HostSegVisualizationHook):
    """MMSegmentation's SegVisualizationHook, which in a test reads every image that LoadImage reads."""

    def after_test_iter(self, runner, batch_idx: int, data_batch: dict, outputs: Sequence) -> None:
        for sample in outputs if self.draw else ():
            self._test_index += 1
            picture, name = to_picture(read_any(sample.img_path)), f'test_{os.path.basename(sample.img_path)}'
            options = dict(show=self.show, wait_time=self.wait_time, step=self._test_index)
            self._visualizer.add_datasample(name, picture, data_sample=sample, **options)
