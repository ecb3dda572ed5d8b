# BEiT v2 base 224, fine-tuned on ImageNet-1k from the 1k weights pre-trained for 1,600 epochs (arXiv 2208.06366).
#
#   tools/dist_train.sh configs/classify/beitv2_base_224_pt1k_to_1k.py 8    8 GPUs x 128 images
#   python tools/test.py configs/classify/beitv2_base_224_pt1k_to_1k.py beitv2_base_patch16_224_pt1k_ft1k.pth
#
# Published for that file: 85.5 % top-1, 97.5 % top-5 (BEiT v2 release).
_base_ = ['../_base_/runtime.py', '../_base_/models/beit_base_classifier.py',
          '../_base_/datasets/imagenet_finetune.py', '../_base_/schedules/finetune_100e.py']

model = dict(
    backbone=dict(
        drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/beitv2_base_patch16_224_pt1k.pth',
                      prefix='backbone.')))

optim_wrapper = dict(optimizer=dict(lr=5e-4), paramwise_cfg=dict(layer_decay_rate=0.6))
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], eta_min_ratio=1e-6 / 5e-4)]
default_hooks = dict(checkpoint=dict(save_best='auto'))
