# ImageNet-22k for fine-tuning at 224 x 224: data/imagenet22k/train holds a folder per class, 21,841 of them.
#
# The release trains on all images and evaluates on none. For tools/test.py hold out images in data/imagenet22k/val (our
# choice). It must have the same folders, since their order numbers the classes; folders may be empty.
_base_ = 'imagenet_finetune_half.py'

train_dataloader = dict(
    batch_size=256, dataset=dict(type='ImageNet21k', data_root='data/imagenet22k'))
val_dataloader = None
val_evaluator = None
# MMPretrain's ImageNet21k has only the split 'train'.
test_dataloader = dict(
    dataset=dict(type='ImageNet21k', data_root='data/imagenet22k', split='', data_prefix='val'))
