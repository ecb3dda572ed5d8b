"""Small copies of our parts and of the hosts' heads, for one short step."""

from mmengine.registry import MODELS
from mmseg.models.decode_heads import FCNHead, UPerHead
from torch import nn

from beit_mm.config.parts import walk
from beit_mm.models import BEiT, DiscreteVAE, MaskedImageModel, TimmTeacher, VectorQuantisedTokenizer
from beit_mm.models.tokenizers.tokenizer import Tokenizer

from .blame import find_class

SMALL_TOKENIZERS: dict[type, dict] = {
    DiscreteVAE: dict(blocks_per_group=1, n_hid=32, n_init=16),
    VectorQuantisedTokenizer: dict(encoder_depth=1, decoder_depth=1),
}


def make_parts_small(model: dict) -> None:
    """Change a model's config: few blocks, narrow heads, a teacher without its weights."""
    for _, node in walk(model, 'model'):
        cls = find_class(node, MODELS)
        if cls is BEiT:
            indices = node.get('out_indices', -1)
            count = len(indices) if isinstance(indices, (list, tuple)) else 1
            if count < node.get('depth', 12):
                frozen = min(node.get('frozen_stages', -1), count)
                node.update(depth=count, frozen_stages=frozen, compile_blocks=False)
                node['out_indices'] = list(range(count)) if isinstance(indices, (list, tuple)) else -1
        # No other part depends on the inner widths of these, and without convolutions there is none.
        if isinstance(cls, type) and issubclass(cls, (FCNHead, UPerHead)) and node.get('num_convs', 1):
            node['channels'] = min(node.get('channels', 64), 64)
        if cls in SMALL_TOKENIZERS:
            node.update(SMALL_TOKENIZERS[cls])
        if cls is MaskedImageModel and node.get('bottleneck'):
            node['bottleneck'].update(early_layers=1, head_layers=1)
        if cls is TimmTeacher:
            depth = dict(depth=1) if node['name'].startswith('vit_') else {}
            node.update(pretrained=False, options={**(node.get('options') or {}), **depth})


def pretend_to_be_trained(model: nn.Module) -> None:
    """Let tokenizers encode, whose weights are not loaded, and keep their teachers from loading theirs."""
    for module in model.modules():
        if isinstance(module, Tokenizer):
            module.has_encoder = True
        if isinstance(module, VectorQuantisedTokenizer) and module.teacher is not None:
            module.teacher.is_init = True
