"""The second prediction of BEiT v2, through the class token (arXiv 2208.06366, section 2.3)."""

import math

import torch
from torch import nn, Tensor

from beit_mm.errors import UserError
from beit_mm.models.backbones.beit import BEiT


class ClassTokenBottleneck(nn.Module):
    """Predicts the masked patches again from an early block's patch tokens and the last block's class token.

    The early patch tokens know too little, so the class token must carry what the whole image shows. Fine-tuning does
    not use these blocks.

    Args:
        trunk: a BEiT.
        num_outputs: of the prediction target.
        early_layers: the patch tokens come from this block, counted from 1: 9 for base, 21 for large.
        head_layers: number of further blocks.
        shared_head: whether the trunk's `norm` and the model's `lm_head` serve here too.

    Raises:
        UserError: If the trunk is no BEiT or has fewer blocks than early_layers.
    """

    def __init__(
        self, trunk: BEiT, num_outputs: int, early_layers: int = 9, head_layers: int = 2, shared_head: bool = True
    ):
        super().__init__()
        if not isinstance(trunk, BEiT):
            raise UserError(f'a class token bottleneck needs a backbone of type BEiT, got {type(trunk).__name__}')
        depth = len(trunk.blocks)
        if not 1 <= early_layers <= depth:
            raise UserError(
                f'bottleneck needs early_layers of 1 to {depth}, the depth of the trunk, got {early_layers}'
            )
        if head_layers < 1:
            raise UserError(f'bottleneck needs head_layers of at least 1, got {head_layers}')
        self.early_layers = early_layers
        slope = trunk.drop_path_rate / max(depth - 1, 1)
        indices = range(early_layers, early_layers + head_layers)  # of the blocks that these stand for
        self.blocks = nn.ModuleList(trunk.new_block(min(slope * index, 1.0)) for index in indices)
        with torch.no_grad():  # PyTorch's initial values with the trunk's rescaling, as in the release
            for index, block in zip(indices, self.blocks):
                block.attn.proj.weight.div_(math.sqrt(2.0 * (index + 1)))
                block.mlp.fc2.weight.div_(math.sqrt(2.0 * (index + 1)))
        self.norm = self.lm_head = None
        if not shared_head:
            self.norm = nn.LayerNorm(trunk.embed_dim, eps=trunk.norm.eps)
            self.lm_head = nn.Linear(trunk.embed_dim, num_outputs)
            nn.init.trunc_normal_(self.lm_head.weight, std=0.02, a=-0.02, b=0.02)
            nn.init.zeros_(self.lm_head.bias)

    def forward(self, trunk: BEiT, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised tokens (B, 1 + h * w, C), the trunk's and those behind the bottleneck; arguments: see BEiT."""
        (early, last), grid = trunk.read_blocks(images, (self.early_layers - 1, len(trunk.blocks) - 1), mask)
        joined = torch.cat([last[:, :1], early[:, 1:]], dim=1)
        (behind,) = trunk.run(self.blocks, joined, grid, (len(self.blocks) - 1,))
        return trunk.norm(last), (self.norm or trunk.norm)(behind)
