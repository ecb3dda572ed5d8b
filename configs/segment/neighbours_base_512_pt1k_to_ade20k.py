# Nearest neighbours of the patches of a frozen BEiT base 512 on ADE20K: what the features know, without learning.
#
#   tools/dist_train.sh configs/segment/neighbours_base_512_pt1k_to_ade20k.py 8    8 GPUs x 2 images
#
# No published score; all values are our choice. --cfg-options model.backbone.init_cfg.checkpoint=FILE compares others.
_base_ = 'linear_base_512_pt1k_to_ade20k.py'

model = dict(
    decode_head=dict(
        _delete_=True,
        type='beit_mm.NeighboursHead',
        in_channels=768,
        in_index=0,
        num_classes=150,
        align_corners=False))

max_iters = 1263  # one pass over the 20,210 images
param_scheduler = [dict(type='ConstantLR', factor=1.0, by_epoch=False, begin=0, end=max_iters)]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
default_hooks = dict(checkpoint=dict(interval=max_iters))
