# CIFAR-100 at 224 x 224: data/cifar100/cifar-100-python holds train, test and meta, as the archive does.
_base_ = 'imagenet_finetune.py'

train_dataloader = dict(
    batch_size=64,
    # Every image in three augmented versions (arXiv 2106.08254, table 13).
    sampler=dict(type='RepeatAugSampler'),
    dataset=dict(
        _delete_=True,
        type='CIFAR100',
        # A prefix instead of a root, since the splits are files, not folders.
        data_root='data',
        data_prefix='cifar100',
        split='train',
        download=False,
        pipeline=[
            *_base_.train_dataloader.dataset.pipeline[1:3],
            # CIFAR's pixels come in RGB, so the fill is the reverse of ImageNet's. No random erasing (table 13).
            dict(_base_.train_dataloader.dataset.pipeline[3],
                 hparams=dict(pad_val=[124, 116, 104], interpolation='bicubic')),
            _base_.train_dataloader.dataset.pipeline[5]
        ]))
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='CIFAR100',
        data_root='data',
        data_prefix='cifar100',
        split='test',
        download=False,
        pipeline=_base_.val_dataloader.dataset.pipeline[1:]))
test_dataloader = val_dataloader
