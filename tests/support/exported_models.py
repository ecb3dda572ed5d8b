"""Tiny models to export."""

from mmengine.config import Config
from torch import nn

from beit_mm.apis import load_model

CONFIGS = __file__.rpartition('/tests/')[0] + '/configs'
TRUNK = {
    f'model.backbone.{key}': value
    for key, value in dict(img_size=64, embed_dim=32, depth=1, num_heads=2, init_cfg=None).items()
}
CLASSIFIER = {**TRUNK, 'model.head.in_channels': 32, 'model.head.init_cfg.std': 1.0}
SEGMENTOR = {
    **TRUNK,
    'model.backbone.out_indices': [0, 0, 0, 0],
    'model.neck.embed_dim': 32,
    'model.decode_head.in_channels': [32] * 4,
    'model.decode_head.channels': 16,
    'model.decode_head.pool_scales': [1, 6],
    'model.auxiliary_head.in_channels': 32,
}
PRETRAINING = {
    **TRUNK,
    **{
        f'model.target.tokenizer.{key}': value
        for key, value in dict(vocab_size=16, n_hid=8, n_init=8, blocks_per_group=1).items()
    },
}
OPTIONS = {
    'demo/finetune': CLASSIFIER,
    'demo/segment': SEGMENTOR,
    'demo/pretrain': PRETRAINING,
    'demo/linear_probe': {**TRUNK, 'model.backbone.out_indices': [0, 1], 'model.backbone.depth': 2},
}


def build(config: str, **trunk) -> nn.Module:
    """A demonstration's model with a smaller trunk, whose biases and position embeddings are not zero."""
    options = {**OPTIONS[config], **{f'model.backbone.{key}': value for key, value in trunk.items()}}
    cfg = Config.fromfile(f'{CONFIGS}/{config}.py')
    if config == 'demo/pretrain':
        options['model.target.tokenizer.init_cfg'] = None
    model = load_model(cfg, device='cpu', options=options)
    for name, weight in model.named_parameters():
        if name.endswith('relative_position_bias_table') or name.endswith('gamma_1'):
            nn.init.normal_(weight)
    return model
