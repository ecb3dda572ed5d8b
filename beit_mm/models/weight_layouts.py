"""The names of BEiT's weights in each implementation.

Sources: the release (github.com/microsoft/unilm, beit), timm, transformers (the names in files, then those in memory
since version 5), MMPretrain, MMSegmentation, PASSL (github.com/PaddlePaddle/PASSL).
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from torch import Tensor

from .layout import Layout


def _table(text: str) -> list[tuple[str, str]]:
    """Two columns: beginnings of their names and of ours."""
    return [(theirs, ours) for theirs, ours in map(str.split, text.strip().splitlines())]


def _same(names: str, theirs: str = '', ours: str = '') -> list[tuple[str, str]]:
    return [(theirs + name, ours + name) for name in names.split()]


_BLOCK = (
    'gamma_ norm1. norm2. attn.q_bias attn.v_bias attn.qkv.weight attn.relative_position_bias_table attn.proj. '
    'mlp.fc1. mlp.fc2.'
)
_CLASSIFIER = [
    *_same('cls_token pos_embed patch_embed.proj. norm. fc_norm.', '@', 'backbone.'),
    *_same(_BLOCK, '@blocks.{}.', 'backbone.blocks.{}.'),
]
_TRUNK = _CLASSIFIER + _same('mask_token rel_pos_bias.relative_position_bias_table', '@', 'backbone.')
_HEADS = _same('decode_head. auxiliary_head.')
_SEGMENTOR = _same('neck.') + _HEADS

BEIT_MM = Layout(
    'beit_mm',
    [*_TRUNK, ('@grid_size', 'backbone.grid_size'), *_same('lm_head. bottleneck. head.fc. target.'), *_SEGMENTOR],
    trunk_prefix='backbone.',
    wrapper='state_dict',
)
# Also reads our own files and timm's: they have the same names in the trunk, and no conflicting names outside it.
RELEASE = Layout(
    'release',
    _TRUNK
    + _table(
        """
        @head.              head.fc.
        @lm_head.           lm_head.
        @cls_pt_layers.     bottleneck.blocks.
        @cls_pt_norm.       bottleneck.norm.
        @cls_pt_lm_head.    bottleneck.lm_head.
        @fpn1.              neck.upsample_4x.
        @fpn2.              neck.upsample_2x.
        """
    )
    + _HEADS,
    aliases=BEIT_MM.pairs[len(_TRUNK) :],
    trunk_prefix='backbone.',
    without_prefix=('trunk', 'pretrain', 'classify'),
    wrapper='model',
    keeps_index=True,
)
TIMM = Layout('timm', [*_CLASSIFIER, ('@head.', 'head.fc.')])
PASSL = Layout(
    'passl',
    [*_TRUNK, ('@lm_head.', 'lm_head.'), ('head.fc_cls.', 'head.fc.')],
    trunk_prefix='backbone.',
    tasks=('pretrain', 'classify', 'trunk'),
    transposes=True,
    keeps_index=True,
)
NECKS_NORM = [('neck.norm.', 'backbone.norm.')]  # where MMPretrain's pre-training of BEiT v2 has it
_HOSTS_BLOCK = """
    ln1.             norm1.
    ln2.             norm2.
    ffn.layers.0.0.  mlp.fc1.
    ffn.layers.1.    mlp.fc2.
    gamma_           gamma_
    attn.            attn.
"""
OPENMMLAB = Layout(
    'openmmlab',
    [
        (f'{theirs}.{{}}.{start}', f'{ours}.{{}}.{end}')
        for theirs, ours in (
            ('@layers', 'backbone.blocks'),
            ('neck.patch_aggregation', 'bottleneck.blocks'),
            ('target_generator.encoder.layers', 'target.tokenizer.encoder.blocks'),
        )
        for start, end in _table(_HOSTS_BLOCK)
    ]
    + _table(
        """
        @patch_embed.projection.                            backbone.patch_embed.proj.
        @ln1.                                               backbone.norm.
        @ln2.                                               backbone.fc_norm.
        head.cls_head.                                      lm_head.
        target_generator.blocks.                            target.tokenizer.encoder.blocks.
        target_generator.encoder.patch_embed.projection.    target.tokenizer.encoder.patch_embed.proj.
        target_generator.encoder.ln1.                       target.tokenizer.encoder.fc_norm.
        """
    )
    + _same(
        'encoder.cls_token encoder.pos_embed quantize. encode_task_layer.', 'target_generator.', 'target.tokenizer.'
    )
    + _same('cls_token mask_token pos_embed rel_pos_bias.', '@', 'backbone.')
    + _same('head.fc.')
    + _SEGMENTOR,
    aliases=NECKS_NORM,
    trunk_prefix='backbone.',
    wrapper='state_dict',
    keeps_index=True,
)
MMPRETRAIN = replace(OPENMMLAB, name='mmpretrain', tasks=('pretrain', 'classify', 'trunk'))
MMSEGMENTATION = replace(OPENMMLAB, name='mmsegmentation', tasks=('segment', 'trunk'))

# Our names, those in files, and those in memory.
_TRANSFORMERS_BLOCK = """
    norm1.          layernorm_before.                                       layernorm_before.
    norm2.          layernorm_after.                                        layernorm_after.
    gamma_          lambda_                                                 lambda_
    attn.q.         attention.attention.query.                              attention.q_proj.
    attn.k.         attention.attention.key.                                attention.k_proj.
    attn.v.         attention.attention.value.                              attention.v_proj.
    attn.proj.      attention.output.dense.                                 attention.o_proj.
    mlp.fc1.        intermediate.dense.                                     mlp.fc1.
    mlp.fc2.        output.dense.                                           mlp.fc2.
    attn.relative_  attention.attention.relative_position_bias.relative_    relative_position_bias.relative_
"""
_FILES, _MEMORY = (
    [
        (start + names[column], f'backbone.blocks.{{}}.{names[0]}')
        for names in map(str.split, _TRANSFORMERS_BLOCK.strip().splitlines())
    ]
    for column, start in ((1, '@encoder.layer.{}.'), (2, '@layers.{}.'))
)
TRANSFORMERS = Layout(
    'transformers',
    _table(
        """
        @embeddings.cls_token                       backbone.cls_token
        @embeddings.mask_token                      backbone.mask_token
        @embeddings.position_embeddings             backbone.pos_embed
        @embeddings.patch_embeddings.projection.    backbone.patch_embed.proj.
        @encoder.relative_position_bias.            backbone.rel_pos_bias.
        @layernorm.                                 backbone.norm.
        @pooler.layernorm.                          backbone.fc_norm.
        layernorm.                                  backbone.norm.
        lm_head.                                    lm_head.
        classifier.                                 head.fc.
        fpn1.                                       neck.upsample_4x.
        fpn2.                                       neck.upsample_2x.
        decode_head.classifier.                     decode_head.conv_seg.
        auxiliary_head.classifier.                  auxiliary_head.conv_seg.
        """
    )
    + _FILES
    + _HEADS,
    aliases=_MEMORY
    + _table(
        """
        @shared_position_bias.          backbone.rel_pos_bias.
        fpn.fpn1.conv_transpose1.       neck.upsample_4x.0.
        fpn.fpn1.normalization.         neck.upsample_4x.1.
        fpn.fpn1.conv_transpose2.       neck.upsample_4x.3.
        fpn.fpn2.                       neck.upsample_2x.0.
        """
    )
    + [
        (f'{theirs}.{old}.', f'{ours}.{new}.')
        for old, new in (('convolution', 'conv'), ('normalization', 'bn'))
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


def rename_hosts_tokenizer(state_dict: dict[str, Tensor], prefix: str) -> None:
    """Give the weights of MMPretrain's tokenizer of BEiT v2, if there is one under the prefix, our names, in place."""
    if f'{prefix}encoder.layers.0.ln1.weight' not in state_dict:
        return
    for name in [name for name in state_dict if name.startswith(f'{prefix}encoder.')]:
        ours = OPENMMLAB.our_name(f'target_generator.{name[len(prefix) :]}', 'backbone.')
        if ours is not None:
            state_dict[prefix + ours.removeprefix('target.tokenizer.')] = state_dict.pop(name)
