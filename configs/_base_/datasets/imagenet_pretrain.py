# ImageNet-1k in two views: 224 x 224 for the trunk, 112 x 112 for the tokenizer, and a blockwise mask.
#
# The release's steps in an order that is several times as fast: colours change on the device after the crop, around the
# mean of the whole image. With the same draws, views of photographs differ by 1.5 of 255 on average.
_base_ = 'imagenet_pretrain_release_order.py'

load = dict(type='beit_mm.LoadImage', imdecode_backend='simplejpeg')
jitter = dict(type='beit_mm.DrawColorJitter', brightness=0.4, contrast=0.4, saturation=0.4)
random_crop = dict(_base_.random_crop, resize_backend='torch', flip_prob=0.5)
mask = [
    dict(type='beit_mm.BlockwiseMaskGenerator', grid=(14, 14), num_masked=75, min_block_size=16, min_aspect=0.3),
    dict(type='beit_mm.PackTwoViews')
]
train_pipeline = [load, jitter, random_crop, *mask]

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
        pipeline=train_pipeline))
