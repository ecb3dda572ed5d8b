# BEiT v2 base 224, intermediate fine-tuning on the 21,841 classes of ImageNet-21k (arXiv 2208.06366).
#
#   tools/dist_train.sh configs/classify/beitv2_base_224_pt1k_to_21k.py 8
#       on each of 2 nodes: 16 GPUs x 256 images
#
# No published score: its weights, beitv2_base_patch16_224_pt1k_ft21k.pth,
# are the start of beitv2_base_224_ft21k_to_1k.py.
_base_ = ['../_base_/runtime.py', '../_base_/models/beit_base_classifier.py',
          '../_base_/datasets/imagenet22k_finetune.py', '../_base_/schedules/finetune_22k_90e.py']

model = dict(
    backbone=dict(
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/beitv2_base_patch16_224_pt1k.pth',
                      prefix='backbone.')),
    head=dict(num_classes=21841),
    data_preprocessor=dict(num_classes=21841))

# v2 keeps ImageNet's mean and deviation, also for what RandAugment and RandomErasing fill in.
augment = dict(_base_.augment, hparams=dict(pad_val=[104, 116, 124], interpolation='bicubic'))
erase = dict(_base_.erase, fill_color=[103.53, 116.28, 123.675], fill_std=[57.375, 57.12, 58.395])
train_pipeline = [_base_.load, _base_.random_crop, _base_.flip, augment, erase, _base_.pack]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

optim_wrapper = dict(optimizer=dict(lr=6e-4), clip_grad=None, paramwise_cfg=dict(layer_decay_rate=0.75))
warmup_epochs = 20
param_scheduler = [
    dict(_base_.param_scheduler[0], end=warmup_epochs),
    dict(_base_.param_scheduler[1], eta_min_ratio=1e-6 / 6e-4, begin=warmup_epochs),
]
