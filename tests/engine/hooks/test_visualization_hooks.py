"""Predictions are drawn over images of any bands and bits, each into a picture of its own."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmpretrain.structures import DataSample
from mmpretrain.visualization import UniversalVisualizer
from PIL import Image
from support.data import CLASSES

from beit_mm.datasets import ClassFolders
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


@pytest.mark.parametrize('source', ['folders', 'arrays'])
def test_no_picture_of_a_test_replaces_another(source, tmp_path, monkeypatch):
    """The same file name in each class, or no names, and a last batch that is smaller."""
    for name in CLASSES:
        (tmp_path / name).mkdir()
        Image.new('RGB', (9, 8), (255, 0, 0)).save(tmp_path / name / '1.png')
    dataset = ClassFolders(data_root=str(tmp_path), classes=CLASSES)
    monkeypatch.setattr('mmengine.visualization.Visualizer.get_current_instance', UniversalVisualizer)
    hook = VisualizationHook(enable=True, interval=1, out_dir=str(tmp_path / 'drawn'))
    if source == 'folders':
        hook.before_test(SimpleNamespace(test_dataloader=SimpleNamespace(dataset=dataset)))
    paths = [dict(img_path=dataset.get_data_info(index)['img_path']) for index in range(len(CLASSES))]
    samples = [DataSample(metainfo=path if source == 'folders' else {}) for path in paths]
    images = torch.tensor([0, 0, 255], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 8, 9)
    for batch in range(2):
        hook.after_test_iter(None, batch, dict(inputs=images), samples[2 * batch : 2 * batch + 2])
    drawn = sorted(tmp_path.glob('drawn/**/*.png'))
    names = [f'{name}/1.png_0.png' for name in CLASSES] if source == 'folders' else ['0_0.png', '1_0.png', '2_0.png']
    assert [path.relative_to(tmp_path / 'drawn').as_posix() for path in drawn] == names
    assert all(np.asarray(Image.open(path))[-1, -1].tolist() == [255, 0, 0] for path in drawn), 'red is red'
