# The BEiT release's order of steps for imagenet_pretrain.py: Pillow decodes, the whole image changes its colours and is
# mirrored, then it is cut and resized. Every recipe of pre-training can take it in place of the fast one, by this line:
#
#   train_dataloader = dict(dataset=dict(pipeline=_base_.release_order))
release_order = [
    dict(type='LoadImageFromFile', imdecode_backend='pillow'),
    dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='beit_mm.TwoViewRandomResizedCrop', scale=224, second_scale=112, interpolation='bicubic',
         second_interpolation='lanczos', crop_ratio_range=(0.08, 1.0)),
    dict(type='beit_mm.BlockwiseMaskGenerator', grid=(14, 14), num_masked=75, min_block_size=16, min_aspect=0.3),
    dict(type='beit_mm.PackTwoViews')
]
