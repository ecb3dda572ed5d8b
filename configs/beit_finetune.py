# BEiT base 224, fine-tuned on ImageNet-1k from the pre-trained 1k weights (arXiv 2106.08254, table 1).
#
#   tools/dist_train.sh configs/beit_finetune.py 8         8 GPUs x 128 images
#   tools/dist_test.sh configs/beit_finetune.py work_dirs/beit_finetune/epoch_100.pth 8
#
# Published: 83.2 % top-1. The paper repeats augmentations (table 13), the release does not. To repeat
# them: --cfg-options train_dataloader.sampler.type=RepeatAugSampler
_base_ = ['_base_/runtime.py', '_base_/models/beit_base_classifier.py', '_base_/datasets/imagenet_finetune.py',
          '_base_/schedules/finetune_100e.py']

model = dict(
    backbone=dict(
        init_cfg=dict(type='Pretrained', checkpoint='work_dirs/beit_pretrain/epoch_800.pth', prefix='backbone.')))

default_hooks = dict(checkpoint=dict(save_best='auto'))
