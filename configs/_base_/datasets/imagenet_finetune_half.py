# ImageNet-1k for fine-tuning models with mean and standard deviation 127.5, as the release's after ImageNet-22k.
_base_ = 'imagenet_finetune.py'

# RandAugment and RandomErasing fill with the model's own mean and deviation, as in the release.
augment = dict(_base_.augment, hparams=dict(pad_val=128, interpolation='bicubic'))
erase = dict(_base_.erase, fill_color=[127.5] * 3, fill_std=[127.5] * 3)
train_pipeline = [_base_.load, _base_.random_crop, _base_.flip, augment, erase, _base_.pack]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
