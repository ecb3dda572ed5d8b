# ADE20K at 640 x 640.
_base_ = 'ade20k.py'

crop_size = (640, 640)
train_dataloader = dict(
    dataset=dict(pipeline=[
        *_base_.train_dataloader.dataset.pipeline[:2],
        dict(_base_.train_dataloader.dataset.pipeline[2], scale=(2560, 640)),
        dict(_base_.train_dataloader.dataset.pipeline[3], crop_size=crop_size),
        *_base_.train_dataloader.dataset.pipeline[4:]
    ]))
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(2560, 640), keep_ratio=True),
    *_base_.test_pipeline[2:]
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
            *_base_.tta_pipeline[1].transforms[1:]
        ])
]
