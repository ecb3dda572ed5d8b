# BEiT base 512 under UperNet on ADE20K, from the self-supervised 1k weights (BEiT release).
#
#   tools/dist_train.sh configs/beit_segment.py 8          8 GPUs x 2 images
#   tools/dist_test.sh configs/beit_segment.py work_dirs/beit_segment/iter_160000.pth 8 [--tta]
#
# Published: 45.6 % mIoU after 800 epochs of pre-training, single scale (arXiv 2106.08254, table 3: a plain ViT, with
# SETR-PUP's decoder); under UperNet 45.70 % after 300 epochs (table 5).
_base_ = ['_base_/seg_runtime.py', '_base_/models/beit_base_upernet.py', '_base_/datasets/ade20k.py',
          '_base_/schedules/ade20k_160k.py']

model = dict(
    backbone=dict(
        init_cfg=dict(type='Pretrained', checkpoint='work_dirs/beit_pretrain/epoch_800.pth', prefix='backbone.')))
