"""A training so small that its tests are about what happens around it: eight numbers and a model of two weights."""

import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from torch import nn

from beit_mm.registry import DATASETS


class Line(BaseModel):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.full((2,), 3.0))

    def forward(self, x, mode='loss'):
        return dict(loss=(self.weight * x.mean() - 1).square().mean()) if mode == 'loss' else [x]


@DATASETS.register_module('EightNumbers')
class EightNumbers(torch.utils.data.Dataset):
    metainfo = {}

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return dict(x=torch.tensor(index + 1.0))


class Half(BaseMetric):
    """An accuracy of one half, whatever was predicted."""

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return dict(accuracy=0.5)
