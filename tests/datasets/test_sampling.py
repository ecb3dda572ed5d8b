"""Samplers give seeds that belong to the sample and its epoch, and begin anywhere at once."""

import pickle
import random
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS
from mmpretrain.engine.hooks import SwitchRecipeHook
from torch.utils.data import DataLoader

from beit_mm.datasets import SeededDataset, SeededSampler, seeding, WeightedRandomSampler
from beit_mm.datasets.seeding import derive_seed
from beit_mm.errors import UserError

SIZE = 10


@DATASETS.register_module(force=True)
class Draws(torch.utils.data.Dataset):
    """Gives the sample's index and a number from each generator."""

    metainfo = dict(name='draws')

    def __len__(self):
        return SIZE

    def __getitem__(self, index):
        return index, random.random(), np.random.random(), torch.rand(()).item()


def keys(monkeypatch, kind='DefaultSampler', rank=0, world_size=1, epoch=0, skip=0, seed=7, count=2 * SIZE):
    monkeypatch.setattr(seeding, 'get_dist_info', lambda: (rank, world_size))
    for module in ('mmengine.dataset.sampler', 'mmpretrain.datasets.samplers.repeat_aug'):
        monkeypatch.setattr(f'{module}.get_dist_info', lambda: (rank, world_size))
    sampler = SeededSampler(dict(type=kind, shuffle=True), Draws(), seed)
    sampler.set_epoch(epoch)
    sampler.skip(skip)
    return [tuple(key) for key in islice(sampler, count)]


@pytest.mark.parametrize('kind', ['DefaultSampler', 'InfiniteSampler', 'mmpretrain.RepeatAugSampler'])
def test_a_pass_begins_anywhere_and_two_processes_share_the_samples_of_one(kind, monkeypatch):
    alone, *together = passes = [keys(monkeypatch, kind, rank, size) for rank, size in ((0, 1), (0, 2), (1, 2))]
    for whole, (rank, size) in zip(passes, ((0, 1), (0, 2), (1, 2))):
        rest = keys(monkeypatch, kind, rank, size, skip=3)
        assert len(rest) >= 2 and rest[: len(whole) - 3] == whole[3:]
    assert [key for pair in zip(*together) for key in pair][:SIZE] == alone[:SIZE]


class TwoClasses(Draws):
    """Ninety images of class 0 and ten of class 1."""

    def __len__(self):
        return 100

    def get_gt_labels(self):
        return np.repeat([0, 1], [90, 10])


def weighted(rank=0, world_size=1, epoch=0, **options) -> list[tuple[int, int]]:
    sampler = SeededSampler(dict(type='beit_mm.WeightedRandomSampler', **options), TwoClasses(), 7)
    sampler.set_epoch(epoch)
    sampler.skip(3)
    return [tuple(key) for key in sampler]


def test_weights_draw_rare_classes_as_often_as_others_and_every_draw_has_its_own_seed(monkeypatch):
    alone = weighted()
    assert len(alone) == 97 and 35 < sum(index >= 90 for index, _ in alone) < 65
    assert len({seed for _, seed in alone}) == 97 > len({index for index, _ in alone})
    assert weighted() == alone != weighted(epoch=1)
    assert {index for index, _ in weighted(weights=[0] * 98 + [1, 3])} == {98, 99}
    together = []
    for rank in (0, 1):
        for module in (seeding.__name__, 'mmengine.dataset.sampler'):
            monkeypatch.setattr(f'{module}.get_dist_info', lambda rank=rank: (rank, 2))
        together.append(weighted())
    assert [key for pair in zip(*together) for key in pair] == alone[3:]


@pytest.mark.parametrize(
    'dataset, weights, words',
    [
        (TwoClasses, [1, 2], 'must be 100 numbers of 0 or more, one for each image, and not all 0, got 2'),
        (TwoClasses, [-1] * 100, 'must be 100 numbers of 0 or more'),
        (Draws, None, 'needs weights for Draws, which gives no label for each image'),
    ],
)
def test_weights_that_do_not_fit_are_refused(dataset, weights, words):
    with pytest.raises(UserError, match=words):
        iter(WeightedRandomSampler(dataset(), weights, seed=0))


def test_seeds_are_a_function_of_run_epoch_and_sample(monkeypatch):
    for epoch in (0, 1):
        assert dict(keys(monkeypatch, epoch=epoch)) == {index: derive_seed(7, epoch, index, 0) for index in range(SIZE)}
    stream = keys(monkeypatch, 'InfiniteSampler')
    assert dict(stream[SIZE:]) == {index: derive_seed(7, 1, index, 0) for index in range(SIZE)}
    assert [index for index, _ in stream[:SIZE]] != [index for index, _ in stream[SIZE:]]
    assert keys(monkeypatch, seed=8) != keys(monkeypatch)
    repeated = keys(monkeypatch, 'mmpretrain.RepeatAugSampler', count=3)
    assert len({index for index, _ in repeated}) == 1 and len({seed for _, seed in repeated}) == 3


def test_no_two_seeds_are_the_same():
    seeds = {derive_seed(run, epoch, index, 0) for run in range(5) for epoch in range(-1, 19) for index in range(1000)}
    assert len(seeds) == 5 * 20 * 1000


def draws(num_workers: int, epoch: int) -> list:
    data = SeededDataset(dict(type='Draws'), 'none', 0.0)
    sampler = SeededSampler(dict(type='DefaultSampler'), data, 7)
    sampler.set_epoch(epoch)
    loader = DataLoader(data, sampler=sampler, num_workers=num_workers, batch_size=3, collate_fn=list)
    return [sample for batch in loader for sample in batch]


def test_draws_do_not_depend_on_workers_and_differ_in_every_epoch():
    first, second = draws(0, 0), draws(0, 1)
    assert draws(2, 0) == draws(4, 0) == first and draws(2, 1) == second
    for generator in (1, 2, 3):
        values = [sample[generator] for sample in first + second]
        assert len(set(values)) == 2 * SIZE


def test_the_wrapper_has_its_own_attributes_and_a_changed_pipeline_reaches_the_data_set_inside():
    data = pickle.loads(pickle.dumps(SeededDataset(dict(type='Draws'), 'none', 0.0)))
    assert len(data) == SIZE and data.metainfo == Draws.metainfo
    data.transform = 'new'
    assert not hasattr(data.dataset, 'transform') and not hasattr(data, 'nothing_such')
    data.dataset.pipeline = ['first']
    loop = SimpleNamespace(dataloader=SimpleNamespace(dataset=data, num_workers=0))
    SwitchRecipeHook._switch_train_pipeline(SimpleNamespace(train_loop=loop), ['second'])
    assert data.dataset.pipeline == ['second']
