# ImageNet-1k at 224 x 224 for models with mean and standard deviation 127.5, evaluated at crop ratio 0.9.
_base_ = 'imagenet_finetune_half.py'

train_dataloader = dict(batch_size=64)
val_dataloader = dict(
    dataset=dict(pipeline=[
        dict(type='beit_mm.LoadImage'),
        # The short edge becomes 224 / 0.9, rounded down.
        dict(type='ResizeEdge', scale=248, edge='short', backend='pillow', interpolation='bicubic'),
        dict(type='CenterCrop', crop_size=224),
        dict(type='PackInputs')
    ]))
test_dataloader = val_dataloader
