# ADE20K at 640 x 640.
_base_ = 'ade20k.py'

crop_size = (640, 640)
random_resize = dict(_base_.random_resize, scale=(2560, 640))
random_crop = dict(_base_.random_crop, crop_size=crop_size)
train_pipeline = [
    _base_.load, _base_.load_labels, random_resize, random_crop, _base_.flip, _base_.distort, _base_.pack
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(2560, 640), keep_ratio=True),
    _base_.load_labels,
    dict(type='PackSegInputs')
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale=(int(2560 * max(ratio, 1)), int(640 * max(ratio, 1))), keep_ratio=True)
                for ratio in _base_.img_ratios
            ],
            _base_.flips,
            [_base_.load_labels],
            [dict(type='PackSegInputs')],
        ])
]
