# BEiT base 224, fine-tuned on CIFAR-100 from the self-supervised 1k weights (arXiv 2106.08254, appendix F).
#
#   tools/dist_train.sh configs/classify/beit_base_224_pt1k_to_cifar100.py 8    8 GPUs x 64 images
#
# Published: 90.1 % top-1 (table 11). Weight decay and repeated augmentation without erasing as in table 13.
_base_ = ['../_base_/runtime.py', '../_base_/models/beit_base_classifier.py',
          '../_base_/datasets/cifar100.py', '../_base_/schedules/finetune_100e.py']

model = dict(
    backbone=dict(
        init_cfg=dict(type='Pretrained', checkpoint='work_dirs/beit_pretrain/epoch_800.pth', prefix='backbone.')),
    head=dict(num_classes=100),
    data_preprocessor=dict(num_classes=100))

optim_wrapper = dict(optimizer=dict(weight_decay=0.3))
max_epochs = 150
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], end=max_epochs)]
train_cfg = dict(max_epochs=max_epochs)
auto_scale_lr = dict(base_batch_size=512)
# An epoch takes only seconds.
default_hooks = dict(checkpoint=dict(interval=30, save_best='auto'))
