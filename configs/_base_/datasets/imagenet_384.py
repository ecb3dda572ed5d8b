# ImageNet-1k for fine-tuning at 384 x 384, evaluated at crop ratio 1.0.
_base_ = 'imagenet_finetune.py'

train_dataloader = dict(
    batch_size=64,
    dataset=dict(pipeline=[
        _base_.train_dataloader.dataset.pipeline[0],
        dict(_base_.train_dataloader.dataset.pipeline[1], scale=384),
        *_base_.train_dataloader.dataset.pipeline[2:]
    ]))
val_dataloader = dict(
    dataset=dict(pipeline=[
        dict(type='beit_mm.LoadImage'),
        dict(_base_.val_dataloader.dataset.pipeline[1], scale=384),
        dict(type='CenterCrop', crop_size=384),
        dict(type='PackInputs')
    ]))
test_dataloader = val_dataloader
