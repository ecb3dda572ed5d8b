# BEiT base 224, fine-tuned on ImageNet-1k from the pre-trained 1k weights (arXiv 2106.08254, table 1).
#
#   tools/dist_train.sh configs/beit_finetune.py 8         8 GPUs x 128 images
#   tools/dist_test.sh configs/beit_finetune.py work_dirs/beit_finetune/epoch_100.pth 8
#
# Published: 83.2 % top-1.
_base_ = ['_base_/runtime.py', '_base_/models/beit_base_classifier.py', '_base_/datasets/imagenet_finetune.py']

model = dict(
    backbone=dict(
        init_cfg=dict(type='Pretrained', checkpoint='work_dirs/beit_pretrain/epoch_800.pth', prefix='backbone.')))

optim_wrapper = dict(
    type='beit_mm.AutocastOptimWrapper',
    optimizer=dict(type='AdamW', lr=4e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05),
    constructor='beit_mm.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.65))
max_epochs = 100
warmup_epochs = 20
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-9, by_epoch=True, begin=0, end=warmup_epochs, convert_to_iter_based=True),
    # A ratio, so that the floor scales with every layer's rate as in the release.
    dict(type='CosineAnnealingLR', eta_min_ratio=1e-6 / 4e-3, by_epoch=True, begin=warmup_epochs, end=max_epochs,
         convert_to_iter_based=True),
]

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(checkpoint=dict(save_best='auto'))
auto_scale_lr = dict(base_batch_size=1024)
