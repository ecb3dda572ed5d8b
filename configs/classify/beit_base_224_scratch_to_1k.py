# BEiT base 224, trained on ImageNet-1k from random weights with the recipe of DeiT (arXiv 2012.12877).
#
#   tools/dist_train.sh configs/classify/beit_base_224_scratch_to_1k.py 8    8 GPUs x 128 images
#
# Published: 81.8 % top-1 for DeiT base with that recipe (arXiv 2106.08254, table 1). Our choice: relative positions and
# LayerScale, which DeiT lacks, and a rate that starts at 0 and changes at every step.
_base_ = '../beit_finetune.py'

model = dict(backbone=dict(init_cfg=None))

train_dataloader = dict(sampler=dict(type='RepeatAugSampler'))
optim_wrapper = dict(optimizer=dict(lr=1e-3), paramwise_cfg=dict(layer_decay_rate=1.0))
max_epochs = 300
warmup_epochs = 5
param_scheduler = [
    dict(_base_.param_scheduler[0], end=warmup_epochs),
    dict(_base_.param_scheduler[1], eta_min_ratio=1e-5 / 1e-3, begin=warmup_epochs, end=max_epochs),
]
train_cfg = dict(max_epochs=max_epochs)
