# BEiT v2 large 512 under UperNet on ADE20K, from the weights fine-tuned on ImageNet-21k (arXiv 2208.06366).
#
#   tools/dist_train.sh configs/segment/beitv2_large_512_ft21k_to_ade20k.py 8    8 GPUs x 2 images
#   python tools/test.py configs/segment/beitv2_large_512_ft21k_to_ade20k.py FILE
#
# Published for beitv2_large_patch16_224_pt1k_ft21ktoade20k.pth: 57.5 % mIoU (BEiT v2 release).
_base_ = ['../_base_/seg_runtime.py', '../_base_/models/beit_large_upernet.py',
          '../_base_/datasets/ade20k.py', '../_base_/schedules/ade20k_160k.py']

model = dict(
    backbone=dict(
        layer_scale_init_value=1e-6,
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/beitv2_large_patch16_224_pt1k_ft21k.pth',
                      prefix='backbone.')))

optim_wrapper = dict(optimizer=dict(lr=3e-5), paramwise_cfg=dict(layer_decay_rate=0.9))
