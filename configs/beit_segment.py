# BEiT base 512 under UperNet on ADE20K, from the self-supervised 1k weights (arXiv 2106.08254, table 3).
#
#   tools/dist_train.sh configs/beit_segment.py 8          8 GPUs x 2 images
#   tools/dist_test.sh configs/beit_segment.py work_dirs/beit_segment/iter_160000.pth 8 [--tta]
#
# Published: 45.6 % mIoU after 800 epochs of pre-training, single scale.
_base_ = ['_base_/seg_runtime.py', '_base_/models/beit_base_upernet.py', '_base_/datasets/ade20k.py']

model = dict(
    backbone=dict(
        init_cfg=dict(type='Pretrained', checkpoint='work_dirs/beit_pretrain/epoch_800.pth', prefix='backbone.')))

optim_wrapper = dict(
    type='beit_mm.AutocastOptimWrapper',
    optimizer=dict(type='AdamW', lr=7e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05),
    constructor='beit_mm.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.65))
max_iters = 160000
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    # From step 0: the warm-up multiplies the polynomial, as in the release.
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=0, end=max_iters),
]

train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=16000)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=16)
