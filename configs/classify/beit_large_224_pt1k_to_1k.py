# BEiT large 224, fine-tuned on ImageNet-1k from the self-supervised 1k weights (arXiv 2106.08254).
#
#   tools/dist_train.sh configs/classify/beit_large_224_pt1k_to_1k.py 8    8 GPUs x 64 images, 2 steps accumulated
#
# Published: 85.2 % top-1 (arXiv 2106.08254).
_base_ = ['../_base_/runtime.py', '../_base_/models/beit_large_classifier.py',
          '../_base_/datasets/imagenet_finetune.py', '../_base_/schedules/finetune_50e.py']

model = dict(
    backbone=dict(
        drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint='work_dirs/beit_large_1k_800e/epoch_800.pth', prefix='backbone.')))

train_dataloader = dict(batch_size=64)
default_hooks = dict(checkpoint=dict(save_best='auto'))
