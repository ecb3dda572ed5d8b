# BEiT base 512 under UperNet on ADE20K, from the weights fine-tuned on ImageNet-22k (BEiT release).
#
#   tools/dist_train.sh configs/segment/beit_base_512_ft22k_to_ade20k.py 8    8 GPUs x 2 images
#
# No published score.
_base_ = ['../_base_/seg_runtime.py', '../_base_/models/beit_base_upernet.py',
          '../_base_/datasets/ade20k.py', '../_base_/schedules/ade20k_160k.py']

model = dict(
    backbone=dict(
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/beit_base_patch16_224_pt22k_ft22k.pth',
                      prefix='backbone.')))

optim_wrapper = dict(optimizer=dict(lr=3e-5), paramwise_cfg=dict(layer_decay_rate=0.9))
