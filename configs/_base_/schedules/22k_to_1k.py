# 30 epochs of 512 images per update, from weights fine-tuned on ImageNet-22k (BEiT release).
optim_wrapper = dict(
    type='beit_mm.AutocastOptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-5, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-8, fused=True),
    constructor='beit_mm.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.85))
max_epochs = 30
warmup_epochs = 5
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-9, by_epoch=True, begin=0, end=warmup_epochs, convert_to_iter_based=True),
    # A ratio, so that each layer's minimum rate scales with its own rate, as in the release.
    dict(type='CosineAnnealingLR', eta_min_ratio=1e-6 / 2e-5, by_epoch=True, begin=warmup_epochs, end=max_epochs,
         convert_to_iter_based=True),
]

train_cfg = dict(type='beit_mm.EpochTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=512)
