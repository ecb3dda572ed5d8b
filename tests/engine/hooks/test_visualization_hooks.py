"""Predictions are drawn over images of any bands and bits."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmpretrain.structures import DataSample

from beit_mm.engine.hooks.visualization_hooks import SegVisualizationHook, VisualizationHook


class Visualizer:
    def visualize_cls(self, image, **_):
        self.drawn = image

    def add_datasample(self, name, image, **_):
        self.drawn = image


@pytest.mark.parametrize('bands', [1, 4, 13])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_predictions_are_drawn_over_the_first_three_bands(bands, dtype, tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (8, 9, bands), dtype)
    np.save(tmp_path / 'a.npy', pixels)
    monkeypatch.setattr('mmengine.visualization.Visualizer.get_current_instance', Visualizer)
    classify, segment = VisualizationHook(enable=True, interval=1), SegVisualizationHook(draw=True)
    images = torch.from_numpy(pixels.astype(np.int32) if dtype == np.uint16 else pixels).permute(2, 0, 1)[None]
    classify._draw_samples(0, dict(inputs=images), [DataSample()])
    segment.after_test_iter(None, 0, {}, [SimpleNamespace(img_path=str(tmp_path / 'a.npy'))])
    drawn, read = classify._visualizer.drawn, segment._visualizer.drawn
    assert drawn.dtype == read.dtype == np.uint8 and drawn.shape == read.shape == (8, 9, 3)
    assert np.array_equal(drawn, read) or bands == 1
