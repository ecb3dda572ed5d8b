# BEiT base with a linear head on the mean of its patch tokens (arXiv 2106.08254, section 3.1).
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='beit_mm.BEiT',
        img_size=224,
        patch_size=16,
        embed_dim=768,
        depth=12,
        num_heads=12,
        drop_path_rate=0.1,
        layer_scale_init_value=0.1,
        out_type='avg_featmap'),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=768,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        # The release initializes the head with standard deviation 0.02 and scales it by 0.001.
        init_cfg=dict(type='TruncNormal', layer='Linear', std=2e-5)),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]),
    data_preprocessor=dict(
        type='beit_mm.ClsDataPreprocessor', num_classes=1000, mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375], to_rgb=True))
