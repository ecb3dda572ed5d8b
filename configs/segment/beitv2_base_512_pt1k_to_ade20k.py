# BEiT v2 base 512 under UperNet on ADE20K, from the 1k weights pre-trained for 1,600 epochs (arXiv 2208.06366).
#
#   tools/dist_train.sh configs/segment/beitv2_base_512_pt1k_to_ade20k.py 8    8 GPUs x 2 images
#   python tools/test.py configs/segment/beitv2_base_512_pt1k_to_ade20k.py FILE
#
# Published for beitv2_base_patch16_224_pt1k_ftade20k.pth: 53.1 % mIoU (BEiT v2 release).
_base_ = ['../_base_/seg_runtime.py', '../_base_/models/beit_base_upernet.py',
          '../_base_/datasets/ade20k.py', '../_base_/schedules/ade20k_160k.py']

model = dict(
    backbone=dict(
        drop_path_rate=0.15,
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/beitv2_base_patch16_224_pt1k.pth',
                      prefix='backbone.')))

optim_wrapper = dict(optimizer=dict(lr=5e-5), paramwise_cfg=dict(layer_decay_rate=0.75))
