"""Trunk, pyramid, UperNet head and auxiliary head against the release: segmentation_forward.npz."""

import torch
from mmseg.models import build_segmentor


def test_segmentation_forward(reference, relative_error):
    file = reference('segmentation_forward.npz')
    config = file.config
    norm = dict(type='BN')
    width = config['embed_dim']
    model = build_segmentor(
        dict(
            type='EncoderDecoder',
            backbone=dict(
                type='beit_mm.BEiT',
                img_size=config['img_size'],
                embed_dim=width,
                depth=config['depth'],
                num_heads=config['num_heads'],
                layer_scale_init_value=config['init_values'],
                out_type='featmap',
                out_indices=config['out_indices'],
            ),
            neck=dict(type='Feature2Pyramid', embed_dim=width, norm_cfg=norm),
            decode_head=dict(
                type='beit_mm.UperNetHead',
                in_channels=[width] * 4,
                in_index=[0, 1, 2, 3],
                channels=config['channels'],
                num_classes=config['num_classes'],
                norm_cfg=norm,
            ),
            auxiliary_head=dict(
                type='FCNHead',
                in_channels=width,
                in_index=2,
                channels=config['aux_channels'],
                num_convs=1,
                concat_input=False,
                num_classes=config['num_classes'],
                norm_cfg=norm,
            ),
            test_cfg=dict(mode='whole'),
        )
    ).eval()
    names = {'backbone.fpn1': 'neck.upsample_4x', 'backbone.fpn2': 'neck.upsample_2x'}
    weights = {}
    for name, tensor in file.weights().items():
        for old, new in names.items():
            name = name.replace(old, new)
        weights[name] = tensor
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and all(name.endswith('num_batches_tracked') for name in missing)

    with torch.no_grad():
        features = model.extract_feat(file['x'])
        for index, feature in enumerate(features):
            assert relative_error(feature, file[f'feature_{index}']) < 1e-5, index
        assert relative_error(model.decode_head(features), file['decode_logits']) < 1e-5
        assert relative_error(model.auxiliary_head(features), file['auxiliary_logits']) < 1e-5
