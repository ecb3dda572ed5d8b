"""The hosts' hooks that draw predictions, for images of any bands and bits: they take pictures of three bands."""

import os
from collections.abc import Sequence

import torch
from mmpretrain.engine.hooks import VisualizationHook as HostVisualizationHook
from mmseg.engine.hooks import SegVisualizationHook as HostSegVisualizationHook

from beit_mm.datasets.images import read_any
from beit_mm.evaluation.metrics import shared_folder
from beit_mm.registry import HOOKS
from beit_mm.visualization.sheets import to_picture


@HOOKS.register_module()
class VisualizationHook(HostVisualizationHook):
    """MMPretrain's VisualizationHook; of other images than BGR of 8 bits it draws what `to_picture` gives.

    No picture of a test replaces another: if two images have the same name, `out_dir` repeats their folders.
    """

    root = ''  # of the images whose folders are repeated
    num_seen = 0

    def before_test(self, runner) -> None:
        self.root = shared_folder(runner.test_dataloader.dataset) if self.enable and self.out_dir else ''

    def _draw_samples(self, batch_idx: int, data_batch: dict, data_samples: Sequence, step: int = 0) -> None:
        self.num_seen = self.num_seen if batch_idx else 0  # MMPretrain counts by the last batch, which may be smaller
        out_dir = self.out_dir
        for image, sample in zip(data_batch['inputs'], data_samples) if self.enable else ():
            picture = to_picture(image.permute(1, 2, 0).cpu().numpy()).copy()
            if self.root:
                self.out_dir = os.path.join(out_dir, os.path.relpath(os.path.dirname(sample.img_path), self.root))
            batch = dict(inputs=[torch.from_numpy(picture).permute(2, 0, 1)])
            super()._draw_samples(self.num_seen, batch, [sample], step)
            self.num_seen += 1
        self.out_dir = out_dir


@HOOKS.register_module()
class SegVisualizationHook(HostSegVisualizationHook):
    """MMSegmentation's SegVisualizationHook, which in a test reads every image that LoadImage reads."""

    def after_test_iter(self, runner, batch_idx: int, data_batch: dict, outputs: Sequence) -> None:
        for sample in outputs if self.draw else ():
            self._test_index += 1
            picture, name = to_picture(read_any(sample.img_path)), f'test_{os.path.basename(sample.img_path)}'
            options = dict(show=self.show, wait_time=self.wait_time, step=self._test_index)
            self._visualizer.add_datasample(name, picture, data_sample=sample, **options)
