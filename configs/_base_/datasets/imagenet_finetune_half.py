# ImageNet-1k for fine-tuning models with mean and standard deviation 127.5, as the release's after ImageNet-22k.
_base_ = 'imagenet_finetune.py'

train_dataloader = dict(
    dataset=dict(pipeline=[
        *_base_.train_dataloader.dataset.pipeline[:3],
        # RandAugment and RandomErasing fill with the model's mean and standard deviation, as in the release.
        dict(_base_.train_dataloader.dataset.pipeline[3], hparams=dict(pad_val=128, interpolation='bicubic')),
        dict(_base_.train_dataloader.dataset.pipeline[4], fill_color=[127.5] * 3, fill_std=[127.5] * 3),
        _base_.train_dataloader.dataset.pipeline[5]
    ]))
