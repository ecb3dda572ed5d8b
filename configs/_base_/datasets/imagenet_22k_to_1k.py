# ImageNet-1k at 224 x 224 for models with mean and standard deviation 127.5, evaluated at crop ratio 0.9.
_base_ = 'imagenet_finetune_half.py'

resize = dict(_base_.resize, scale=248)  # 224 / 0.9, rounded down
test_pipeline = [dict(type='beit_mm.LoadImage'), resize, _base_.center_crop, dict(type='PackInputs')]
train_dataloader = dict(batch_size=64)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
