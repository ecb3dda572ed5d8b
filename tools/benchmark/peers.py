"""The release's pre-training step from public parts: plain attention, a bias gathered anew, boolean indexing."""

import timm
import torch
from mmpretrain.models.selfsup.cae import DALLEEncoder
from torch import nn, Tensor


class ReleasesModel(nn.Module):
    """timm's BEiT with its attention written out and one shared bias table, a mask token and a head; MMPretrain's
    encoder as the tokenizer.
    """

    def __init__(self, width: int, depth: int, heads: int, n_hid: int):
        super().__init__()
        self.trunk = timm.create_model(
            'beit_base_patch16_224',
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            drop_path_rate=0.1,
            use_rel_pos_bias=False,
            use_shared_rel_pos_bias=True,
            global_pool='',
            num_classes=0,
        )
        for block in self.trunk.blocks:
            block.attn.fused_attn = False
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.lm_head = nn.Linear(width, 8192)
        self.tokenizer = DALLEEncoder(n_hid=n_hid).requires_grad_(False)

    def forward(self, images: Tensor, views: Tensor, mask: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            tokens = self.tokenizer(0.8 * views + 0.1).argmax(dim=1).flatten(1)
        mask = mask.flatten(1)
        x = self.trunk.patch_embed(images)
        weight = mask[:, :, None].type_as(x)
        x = x * (1 - weight) + self.mask_token * weight
        x = torch.cat([self.trunk.cls_token.expand(len(x), -1, -1), x], dim=1)
        bias = self.trunk.rel_pos_bias()
        for block in self.trunk.blocks:
            x = block(x, shared_rel_pos_bias=bias)
        logits = self.lm_head(self.trunk.norm(x)[:, 1:][mask])
        return nn.functional.cross_entropy(logits, tokens[mask])
