# 160,000 iterations of 16 images, from self-supervised weights: base (BEiT release).
optim_wrapper = dict(
    type='beit_mm.AutocastOptimWrapper',
    optimizer=dict(type='AdamW', lr=7e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05, fused=True),
    constructor='beit_mm.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.65))
max_iters = 160000
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    # As in the release: it begins at step 0, so the warm-up multiplies it, and reaches 0 one step after the last.
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=0, end=max_iters + 1),
]

train_cfg = dict(type='beit_mm.IterTrainLoop', max_iters=max_iters, val_interval=16000)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=16)
