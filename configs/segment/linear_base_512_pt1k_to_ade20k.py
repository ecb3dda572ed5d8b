# A linear classifier of the patches of a frozen BEiT base 512 on ADE20K: what the features know of scenes, in minutes.
#
#   tools/dist_train.sh configs/segment/linear_base_512_pt1k_to_ade20k.py 8    8 GPUs x 2 images
#
# No published score; all values are our choice. --cfg-options model.backbone.init_cfg.checkpoint=FILE compares others.
_base_ = 'beit_base_512_ft22k_to_ade20k.py'

model = dict(
    backbone=dict(
        frozen_stages=12,
        drop_path_rate=0.0,
        out_indices=[11],
        init_cfg=dict(checkpoint='work_dirs/beit_pretrain/epoch_800.pth')),
    neck=None,
    decode_head=dict(
        _delete_=True,
        type='FCNHead',
        in_channels=768,
        in_index=0,
        channels=768,
        num_convs=0,
        concat_input=False,
        dropout_ratio=0.0,
        num_classes=150,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)),
    auxiliary_head=None)

optim_wrapper = dict(
    optimizer=dict(lr=1e-3),
    constructor='beit_mm.TrainableOptimWrapperConstructor',
    paramwise_cfg=None)
max_iters = 4000
param_scheduler = [dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=0, end=max_iters)]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
default_hooks = dict(checkpoint=dict(interval=1000))
