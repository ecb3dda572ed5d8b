# ImageNet-1k in two views: 224 x 224 for the trunk, 112 x 112 for the tokenizer, and a blockwise mask.
train_dataloader = dict(
    batch_size=256,
    num_workers=10,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='ImageNet',
        data_root='data/imagenet',
        split='train',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4),
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            dict(type='beit_mm.TwoViewRandomResizedCrop', scale=224, second_scale=112, interpolation='bicubic',
                 second_interpolation='lanczos', crop_ratio_range=(0.08, 1.0)),
            dict(type='beit_mm.BlockwiseMaskGenerator', grid=(14, 14), num_masked=75, min_block_size=16,
                 min_aspect=0.3),
            dict(type='beit_mm.PackTwoViews')
        ]))
