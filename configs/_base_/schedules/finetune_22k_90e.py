# 90 epochs of 4,096 images per update on ImageNet-22k, from self-supervised weights: base (BEiT release).
_base_ = 'finetune_100e.py'

optim_wrapper = dict(optimizer=dict(lr=3e-3), clip_grad=dict(max_norm=3.0))
max_epochs = 90
warmup_epochs = 5
param_scheduler = [
    dict(_base_.param_scheduler[0], end=warmup_epochs),
    dict(_base_.param_scheduler[1], eta_min_ratio=1e-6 / 3e-3, begin=warmup_epochs, end=max_epochs),
]
train_cfg = dict(max_epochs=max_epochs)
# The release does not evaluate during training on ImageNet-22k.
val_cfg = None
auto_scale_lr = dict(base_batch_size=4096)
