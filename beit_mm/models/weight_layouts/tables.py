"""The layouts: names in the files and state dicts of each implementation.

Sources: the release (github.com/microsoft/unilm, beit), timm, transformers (the names of saved files, then those of
version 5 in memory), MMPretrain, MMSegmentation, PASSL (github.com/PaddlePaddle/PASSL).
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from .layout import Layout


def _table(text: str, theirs: str = '', ours: str = '') -> list[tuple[str, str]]:
    """Two columns: beginnings of their names and of ours, less what all of them begin with."""
    return [(theirs + left, ours + right) for left, right in map(str.split, filter(str.strip, text.splitlines()))]


_BLOCK = (
    'gamma_ norm1. norm2. attn.q_bias attn.v_bias attn.qkv.weight attn.relative_position_bias_table attn.proj. '
    'mlp.fc1. mlp.fc2.'
)
_OUTSIDE_BLOCKS = (
    'cls_token mask_token pos_embed patch_embed.proj. rel_pos_bias.relative_position_bias_table norm. fc_norm. '
    'cls_pt_layers.'
)
_TRUNK = [*_OUTSIDE_BLOCKS.split(), *(f'blocks.{{}}.{name}' for name in _BLOCK.split())]
_SAME = [(name, f'backbone.{name}') for name in _TRUNK]
_PRE_TRAINING_ONLY = ('mask_token', 'rel_pos_bias.relative_position_bias_table', 'cls_pt_layers.')
_PYRAMID = [('fpn1.', 'neck.upsample_4x.'), ('fpn2.', 'neck.upsample_2x.')]
_SEGMENTOR = [(name, name) for name in ('neck.', 'decode_head.', 'auxiliary_head.')]

BEIT_MM = Layout(
    'beit_mm',
    [*_SAME, ('grid_size', 'backbone.grid_size')],
    [('lm_head.', 'lm_head.'), ('head.fc.', 'head.fc.'), ('target.', 'target.'), *_SEGMENTOR],
    trunk_prefix='backbone.',
    wrapper='state_dict',
)
# Also reads our own files and timm's: they have the same names in the trunk, and no conflicting names outside it.
RELEASE = Layout(
    'release',
    [*_SAME, ('head.', 'head.fc.'), ('lm_head.', 'lm_head.'), *_PYRAMID],
    _SEGMENTOR[1:],
    trunk_prefix='backbone.',
    without_prefix=('trunk', 'pretrain', 'classify'),
    trunk_aliases=[('grid_size', 'backbone.grid_size')],
    outside_aliases=BEIT_MM.outside,
    wrapper='model',
    keeps_index=True,
)
TIMM = Layout('timm', [*(pair for pair in _SAME if pair[0] not in _PRE_TRAINING_ONLY), ('head.', 'head.fc.')])
# Linear weights are (in, out) in Paddle.
PASSL = Layout(
    'passl',
    [*_SAME, ('lm_head.', 'lm_head.')],
    [('head.fc_cls.', 'head.fc.')],
    trunk_prefix='backbone.',
    tasks=('pretrain', 'classify', 'trunk'),
    transposes=True,
    keeps_index=True,
    ignored=('d_vae.',),
)

OPENMMLAB = Layout(
    'openmmlab',
    _table(
        """
        layers.{}.ln1.              blocks.{}.norm1.
        layers.{}.ln2.              blocks.{}.norm2.
        layers.{}.ffn.layers.0.0.   blocks.{}.mlp.fc1.
        layers.{}.ffn.layers.1.     blocks.{}.mlp.fc2.
        layers.{}.gamma_            blocks.{}.gamma_
        layers.{}.attn.             blocks.{}.attn.
        patch_embed.projection.     patch_embed.proj.
        ln1.                        norm.
        ln2.                        fc_norm.
        cls_token                   cls_token
        mask_token                  mask_token
        pos_embed                   pos_embed
        rel_pos_bias.               rel_pos_bias.
        """,
        ours='backbone.',
    ),
    [
        ('head.cls_head.', 'lm_head.'),
        ('head.fc.', 'head.fc.'),
        ('target_generator.blocks.', 'target.tokenizer.encoder.blocks.'),
        *_SEGMENTOR,
    ],
    trunk_prefix='backbone.',
    wrapper='state_dict',
    keeps_index=True,
)
MMPRETRAIN = replace(OPENMMLAB, name='mmpretrain', tasks=('pretrain', 'classify', 'trunk'))
MMSEGMENTATION = replace(OPENMMLAB, name='mmsegmentation', tasks=('segment', 'trunk'))

_SHARED_BY_BLOCKS = """
    layernorm_before.   norm1.
    layernorm_after.    norm2.
    lambda_             gamma_
"""
TRANSFORMERS = Layout(
    'transformers',
    trunk=_table(
        """
        embeddings.cls_token                        cls_token
        embeddings.mask_token                       mask_token
        embeddings.position_embeddings              pos_embed
        embeddings.patch_embeddings.projection.     patch_embed.proj.
        encoder.relative_position_bias.             rel_pos_bias.
        layernorm.                                  norm.
        pooler.layernorm.                           fc_norm.
        """,
        ours='backbone.',
    )
    + _table(
        """
        attention.attention.relative_position_bias.relative_position_   attn.relative_position_
        attention.attention.query.      attn.q.
        attention.attention.key.        attn.k.
        attention.attention.value.      attn.v.
        attention.output.dense.         attn.proj.
        intermediate.dense.             mlp.fc1.
        output.dense.                   mlp.fc2.
        """
        + _SHARED_BY_BLOCKS,
        'encoder.layer.{}.',
        'backbone.blocks.{}.',
    ),
    outside=[
        ('layernorm.', 'backbone.norm.'),
        ('lm_head.', 'lm_head.'),
        ('classifier.', 'head.fc.'),
        *_PYRAMID,
        ('decode_head.classifier.', 'decode_head.conv_seg.'),
        ('auxiliary_head.classifier.', 'auxiliary_head.conv_seg.'),
        *_SEGMENTOR[1:],
    ],
    # Names in memory since version 5, which saves under the old ones.
    trunk_aliases=[('shared_position_bias.', 'backbone.rel_pos_bias.')]
    + _table(
        """
        relative_position_bias.relative_position_   attn.relative_position_
        attention.q_proj.   attn.q.
        attention.k_proj.   attn.k.
        attention.v_proj.   attn.v.
        attention.o_proj.   attn.proj.
        mlp.                mlp.
        """
        + _SHARED_BY_BLOCKS,
        'layers.{}.',
        'backbone.blocks.{}.',
    ),
    outside_aliases=_table(
        """
        fpn.fpn1.conv_transpose1.   neck.upsample_4x.0.
        fpn.fpn1.normalization.     neck.upsample_4x.1.
        fpn.fpn1.conv_transpose2.   neck.upsample_4x.3.
        fpn.fpn2.                   neck.upsample_2x.0.
        """
    )
    + [
        (theirs + old, ours + new)
        for old, new in (('.convolution.', '.conv.'), ('.normalization.', '.bn.'))
        for theirs, ours in _table(
            """
            decode_head.lateral_convs.{}            decode_head.lateral_convs.{}
            decode_head.fpn_convs.{}                decode_head.fpn_convs.{}
            decode_head.fpn_bottleneck              decode_head.fpn_bottleneck
            auxiliary_head.convs.{}                 auxiliary_head.convs.{}
            decode_head.psp_modules.blocks.{}.conv  decode_head.psp_modules.{}.1
            decode_head.psp_bottleneck              decode_head.bottleneck
            """
        )
    ],
    trunk_prefix='beit.',
    splits_qkv=True,
    foreign_endings=('attention.key.bias', 'k_proj.bias'),
)

LAYOUTS = {layout.name: layout for layout in (BEIT_MM, RELEASE, TIMM, TRANSFORMERS, MMPRETRAIN, MMSEGMENTATION, PASSL)}
# A tensor of the first block whose name without prefix shows the layout. PASSL differs from RELEASE by its shape.
_FIRST_BLOCK = {
    'blocks.0.attn.qkv.weight': RELEASE,
    'layers.0.attn.qkv.weight': OPENMMLAB,
    'encoder.layer.0.attention.attention.query.weight': TRANSFORMERS,
    'layers.0.attention.q_proj.weight': TRANSFORMERS,
}


def find_layouts(names: Iterable[str]) -> Iterator[tuple[Layout, str, str]]:
    """Layouts that weights may be in, by their names alone, in the order of the names.

    Yields:
        The layout, the prefix of the trunk, and the name that shows them.
    """
    for name in names:
        for ending, layout in _FIRST_BLOCK.items():
            if name == ending or name.endswith(f'.{ending}'):
                yield layout, name.removesuffix(ending), name
