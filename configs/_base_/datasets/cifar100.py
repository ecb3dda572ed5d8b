# CIFAR-100 at 224 x 224: data/cifar100/cifar-100-python holds train, test and meta, as the archive does.
_base_ = 'imagenet_finetune.py'

# The folder that holds `train`, `test` and `meta` is found below data_prefix.
dataset = dict(type='beit_mm.CIFAR100', data_root='data', data_prefix='cifar100', download=False)
train_dataloader = dict(
    batch_size=64,
    # Three augmentations of every image, and no random erasing (arXiv 2106.08254, table 13).
    sampler=dict(type='RepeatAugSampler'),
    dataset=dict(
        _delete_=True,
        **dataset,
        split='train',
        pipeline=[_base_.random_crop, _base_.flip, _base_.augment, _base_.pack]))
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        **dataset,
        split='test',
        pipeline=[_base_.resize, _base_.center_crop, dict(type='PackInputs')]))
test_dataloader = val_dataloader
