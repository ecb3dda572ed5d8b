# ImageNet-1k for fine-tuning at 224 x 224: RandAugment 9 / 0.5 increasing, random erasing in pixel mode.
# torch's filter resizes; it differs from Pillow's by 0.02 of 255 on average. The release has resize_backend='pillow'.
load = dict(type='beit_mm.LoadImage', imdecode_backend='simplejpeg')
random_crop = dict(type='beit_mm.RandomResizedCrop', scale=224, interpolation='bicubic', resize_backend='torch')
flip = dict(type='beit_mm.RandomFlip', prob=0.5, direction='horizontal')
augment = dict(
    type='beit_mm.RandAugment', policies='timm_increasing', num_policies=2, total_level=10, magnitude_level=9,
    magnitude_std=0.5, hparams=dict(pad_val=[104, 116, 124], interpolation='bicubic'))
erase = dict(
    type='beit_mm.RandomErasing', erase_prob=0.25, mode='rand', min_area_ratio=0.02, max_area_ratio=1 / 3,
    fill_color=[103.53, 116.28, 123.675], fill_std=[57.375, 57.12, 58.395])
pack = dict(type='beit_mm.PackInputs')
train_pipeline = [load, random_crop, flip, augment, erase, pack]

resize = dict(type='beit_mm.ResizeEdge', scale=256, edge='short', backend='pillow', interpolation='bicubic')
center_crop = dict(type='CenterCrop', crop_size=224)
test_pipeline = [dict(type='beit_mm.LoadImage'), resize, center_crop, dict(type='PackInputs')]

train_dataloader = dict(
    batch_size=128,
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
val_dataloader = dict(
    batch_size=128,
    num_workers=10,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='ImageNet',
        data_root='data/imagenet',
        split='val',
        pipeline=test_pipeline))
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_dataloader = val_dataloader
test_evaluator = val_evaluator
