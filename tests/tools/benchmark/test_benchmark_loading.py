"""What the benchmark reads with, ours and the hosts', gives the same from the same draws."""

import numpy as np
import pytest
import torch
from PIL import Image
from support.tools import import_tool

loading = import_tool('benchmark', 'loading')
photographs = import_tool('benchmark', 'photographs')


def outcomes(candidates: dict, sample: dict, seed: int) -> list:
    found = []
    for candidate in candidates.values():
        np.random.seed(seed)
        found.append(candidate(dict(sample, seg_fields=[])))
    return found


@pytest.mark.long
def test_all_read_the_same_photographs(tmp_path):
    rows = loading.compare_loading(tmp_path, rounds=1, count=1)
    found = {}
    for row in rows:
        found.setdefault(row.section, []).append(row.name)
    assert list(found.values()) == [
        ['ours', "ours, in the release's order", "the release's steps", 'MMPretrain'],
        ['ours', 'MMPretrain'],
        ['ours', 'MMPretrain'],
        ['ours', 'MMSegmentation'],
    ]
    for folder, size in ((tmp_path, (500, 375)), (tmp_path / 'scenes', (683, 512))):
        pictures = [Image.open(path) for path in folder.glob('*.jpg')]
        assert len(pictures) == 16 and {picture.size for picture in pictures} == {size}


def test_classification_draws_and_pixels(tmp_path):
    sample = dict(img_path=str(photographs.write_photographs(tmp_path, 1)[0]), gt_label=4)
    candidates = loading.classification()
    for seed in range(12):
        ours, hosts = outcomes(candidates, sample, seed)
        assert ours['inputs'].shape == hosts['inputs'].shape == (3, 224, 224)
        assert ours['data_samples'].gt_label == hosts['data_samples'].gt_label == 4
        difference = (ours['inputs'].int() - hosts['inputs'].int()).abs().float()
        # Resizing differs by 0.02 on average; contrast and solarising enlarge it.
        assert difference.mean() < 0.5


def test_segmentation_draws_and_pixels(tmp_path):
    path = photographs.write_scenes(tmp_path, 1)[0]
    sample = dict(
        img_path=str(path), seg_map_path=str(path.with_suffix('.png')), label_map=None, reduce_zero_label=True
    )
    candidates = loading.segmentation()
    differences = []
    for seed in range(12):
        ours, hosts = outcomes(candidates, sample, seed)
        assert torch.equal(ours['data_samples'].gt_sem_seg.data, hosts['data_samples'].gt_sem_seg.data)
        assert ours['data_samples'].metainfo == hosts['data_samples'].metainfo
        differences.append((ours['inputs'].int() - hosts['inputs'].int()).abs().float().mean().item())
    assert max(differences) < 1 and differences.count(0.0) >= 6
