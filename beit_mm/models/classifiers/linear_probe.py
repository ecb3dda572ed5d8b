"""Linear probes: one linear classifier per block on the features of a frozen trunk (arXiv 2106.08254, appendix D)."""

from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from mmpretrain.models import ImageClassifier
from mmpretrain.structures import DataSample
from torch import nn, Tensor
from torch.nn import functional as F

from beit_mm.errors import UserError
from beit_mm.models.backbones.beit import BEiT
from beit_mm.registry import build_part, MODELS


@MODELS.register_module()
class LinearProbe(ImageClassifier):
    """MMPretrain's ImageClassifier over a frozen trunk, with a head that classifies the output of every block.

    The trunk stays in evaluation mode. Blocks are read without the final norm (release, `get_intermediate_layers`).

    Args:
        backbone: a trunk with `out_type='raw'`; its `out_indices` are the blocks that are probed.
        head: LinearProbeHead without `in_channels` and `blocks`, which the trunk decides.
        **kwargs: see ImageClassifier.
    """

    def __init__(self, backbone: dict, head: dict, **kwargs):
        trunk = build_part(backbone)
        if trunk.out_type != 'raw':
            raise UserError(f"LinearProbe needs a backbone with out_type='raw', got {trunk.out_type!r}")
        trunk.norm = nn.Identity()  # blocks are read before any norm, here and by whoever else reads this trunk
        trunk.requires_grad_(False)
        head = dict(head, in_channels=2 * trunk.embed_dim, blocks=trunk.out_indices)
        super().__init__(trunk, head=head, **kwargs)

    def train(self, mode: bool = True) -> 'LinearProbe':
        super().train(mode)
        self.backbone.eval()
        return self

    @torch.no_grad()
    def extract_feat(self, inputs: Tensor, stage: str = 'neck'):
        """Features without gradients; stage 'pre_logits' returns the inputs of the classifiers, see LinearProbeHead."""
        return super().extract_feat(inputs, stage)


@MODELS.register_module()
class LinearProbeHead(BaseModule):
    """One linear classifier per block on [class token, mean of the patch tokens] of its output.

    The losses are summed and the classifiers share no weights, so each learns as if alone. Weights start with standard
    deviation 0.01, biases at zero (BEiT release, `run_linear_eval.py`).

    Args:
        num_classes: number of classes.
        in_channels: twice the trunk's width.
        blocks: the blocks probed, counted from 0.
        predict_block: the block whose prediction is the model's; None for the last. See LinearProbeAccuracy.
    """

    def __init__(self, num_classes: int, in_channels: int, blocks: Sequence[int], predict_block: int | None = None):
        super().__init__()
        self.num_classes = num_classes
        self.blocks = tuple(blocks)
        predict_block = self.blocks[-1] if predict_block is None else predict_block
        if len(set(self.blocks)) < len(self.blocks):
            raise UserError(f'every block of out_indices must be probed once, got {self.blocks}')
        if predict_block not in self.blocks:
            raise UserError(f'predict_block must be one of the blocks probed, {self.blocks}, got {predict_block}')
        self.predict_index = self.blocks.index(predict_block)
        classifiers = {str(block): nn.Linear(in_channels, num_classes) for block in self.blocks}
        self.classifiers = nn.ModuleDict(classifiers)
        for classifier in classifiers.values():
            nn.init.normal_(classifier.weight, std=0.01)
            nn.init.zeros_(classifier.bias)

    @staticmethod
    def pre_logits(feats: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Tokens (B, 1 + h * w, C) of every block to [class token, mean of patch tokens], float32 (B, 2 C) each."""
        feats = [tokens.float() for tokens in feats]
        return tuple(torch.cat([BEiT.pool(tokens, kind) for kind in ('cls_token', 'mean')], dim=1) for tokens in feats)

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        """Tokens of every block to logits, float32 (num_blocks, B, num_classes)."""
        # Outside of autocast, as in the release.
        with torch.autocast(feats[0].device.type, enabled=False):
            dtype = next(self.classifiers.parameters()).dtype
            features = [x.to(dtype) for x in self.pre_logits(feats)]
            return torch.stack([classifier(x) for classifier, x in zip(self.classifiers.values(), features)]).float()

    def loss(self, feats: Sequence[Tensor], data_samples: list[DataSample]) -> dict:
        """Sum over blocks of the mean cross-entropy over images."""
        labels = torch.cat([sample.gt_label for sample in data_samples])
        return dict(loss=sum(F.cross_entropy(logits, labels) for logits in self(feats)))

    def predict(self, feats: Sequence[Tensor], data_samples: list[DataSample] | None = None) -> list[DataSample]:
        """Add `pred_score` and `pred_label` of predict_block; for the metric, `block_labels` int64 (num_blocks,)."""
        logits = self(feats)
        labels = logits.argmax(dim=2).t()  # (B, num_blocks)
        scores = logits[self.predict_index].softmax(dim=1)
        data_samples = data_samples or [DataSample() for _ in scores]
        for sample, score, block_labels in zip(data_samples, scores, labels):
            sample.set_pred_score(score).set_pred_label(block_labels[self.predict_index])
            sample.set_field(block_labels, 'block_labels')
            sample.set_metainfo(dict(probed_blocks=self.blocks))
        return data_samples
