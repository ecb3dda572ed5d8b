# 50 epochs of 1,024 images per update in two accumulated steps, from self-supervised weights: large (BEiT release).
_base_ = 'finetune_100e.py'

optim_wrapper = dict(accumulative_counts=2, optimizer=dict(lr=1e-3), paramwise_cfg=dict(layer_decay_rate=0.75))
max_epochs = 50
warmup_epochs = 5
param_scheduler = [
    dict(_base_.param_scheduler[0], end=warmup_epochs),
    dict(_base_.param_scheduler[1], eta_min_ratio=1e-6 / 1e-3, begin=warmup_epochs, end=max_epochs),
]
train_cfg = dict(max_epochs=max_epochs)
# GPUs x images: --auto-scale-lr does not count accumulated steps.
auto_scale_lr = dict(base_batch_size=512)
