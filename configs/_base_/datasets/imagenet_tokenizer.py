# ImageNet-1k for the tokenizer: random crops of 112 x 112 pixels in [0, 1].
# torch's filter resizes; it differs from Pillow's (resize_backend='pillow') by 0.02 of 255 on average.
load = dict(type='beit_mm.LoadImage', imdecode_backend='simplejpeg')
random_crop = dict(type='beit_mm.RandomResizedCrop', scale=112, interpolation='lanczos', resize_backend='torch')
flip = dict(type='beit_mm.RandomFlip', prob=0.5, direction='horizontal')
pack = dict(type='beit_mm.PackInputs')
train_pipeline = [load, random_crop, flip, pack]

resize = dict(type='beit_mm.ResizeEdge', scale=128, edge='short', backend='pillow', interpolation='lanczos')
center_crop = dict(type='CenterCrop', crop_size=112)
test_pipeline = [dict(type='beit_mm.LoadImage'), resize, center_crop, dict(type='PackInputs')]

train_dataloader = dict(
    batch_size=64,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='ImageNet',
        data_root='data/imagenet',
        split='train',
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=64,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='ImageNet',
        data_root='data/imagenet',
        split='val',
        pipeline=test_pipeline))
test_dataloader = val_dataloader
