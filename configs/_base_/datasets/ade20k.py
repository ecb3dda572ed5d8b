# ADE20K at 512 x 512.
# Colours equal those of MMSegmentation's step, except for one rounding where saturation and hue both change.
crop_size = (512, 512)
load_labels = dict(type='beit_mm.LoadAnnotations', num_classes=150)
# mmseg.apis.inference_model reads this name, and MMSegInferencer needs MMCV's loader by its name.
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(2048, 512), keep_ratio=True),
    load_labels,
    dict(type='PackSegInputs')
]
load = dict(type='beit_mm.LoadImage', imdecode_backend='simplejpeg')
random_resize = dict(type='RandomResize', scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True)
random_crop = dict(type='beit_mm.RandomCrop', crop_size=crop_size, cat_max_ratio=0.75)
flip = dict(type='beit_mm.RandomFlip', prob=0.5)
distort = dict(type='beit_mm.PhotoMetricDistortion')
pack = dict(type='beit_mm.PackSegInputs')
train_pipeline = [load, load_labels, random_resize, random_crop, flip, distort, pack]

train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='ADE20KDataset',
        reduce_zero_label=True,
        data_root='data/ade/ADEChallengeData2016',
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='ADE20KDataset',
        reduce_zero_label=True,
        data_root='data/ade/ADEChallengeData2016',
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        pipeline=test_pipeline))
val_evaluator = dict(type='beit_mm.IoUMetric', iou_metrics=['mIoU'])
test_dataloader = val_dataloader
test_evaluator = val_evaluator

# Multi-scale test with flips, as published: six ratios. The short side is never smaller than the window.
flips = [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)]
img_ratios = [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
tta_model = dict(type='SegTTAModel')
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale=(int(2048 * max(ratio, 1)), int(512 * max(ratio, 1))), keep_ratio=True)
                for ratio in img_ratios
            ],
            flips,
            [load_labels],
            [dict(type='PackSegInputs')],
        ])
]
