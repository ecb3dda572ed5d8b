# ImageNet-1k for fine-tuning at 384 x 384, evaluated at crop ratio 1.0.
_base_ = 'imagenet_finetune.py'

random_crop = dict(_base_.random_crop, scale=384)
train_pipeline = [_base_.load, random_crop, _base_.flip, _base_.augment, _base_.erase, _base_.pack]
test_pipeline = [
    dict(type='beit_mm.LoadImage'),
    dict(_base_.resize, scale=384),
    dict(_base_.center_crop, crop_size=384),
    dict(type='PackInputs')
]
train_dataloader = dict(batch_size=64, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
