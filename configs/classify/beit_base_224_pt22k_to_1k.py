# BEiT base 224, fine-tuned on ImageNet-1k from the self-supervised 22k weights (BEiT release).
#
#   tools/dist_train.sh configs/classify/beit_base_224_pt22k_to_1k.py 8    8 GPUs x 128 images
#   python tools/test.py configs/classify/beit_base_224_pt22k_to_1k.py beit_base_patch16_224_pt22k_ft1k.pth
#
# Published for that file: 83.7 % top-1, 96.6 % top-5 (BEiT release).
_base_ = ['../_base_/runtime.py', '../_base_/models/beit_base_classifier.py',
          '../_base_/datasets/imagenet_finetune_half.py', '../_base_/schedules/finetune_100e.py']

model = dict(
    backbone=dict(
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/beit_base_patch16_224_pt22k.pth', prefix='backbone.')),
    data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3))

default_hooks = dict(checkpoint=dict(save_best='auto'))
