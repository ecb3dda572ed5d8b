# Linear probes of a frozen BEiT base at 224 on ImageNet-1k: one linear classifier per block, all trained at once, the
# best block reported (arXiv 2106.08254, appendix D).
#
#   tools/dist_train.sh configs/classify/linear_probe_base_224_1k.py 8         8 GPUs x 128 images
#   tools/dist_test.sh configs/classify/linear_probe_base_224_1k.py \
#       work_dirs/linear_probe_base_224_1k/epoch_100.pth 8
#
# Published: 56.7 % top-1, on the ninth block: linear_probe/block_8, as blocks count from 0 (table 9; large: 73.5 %).
# The paper trains 50 epochs on the mean of the patch tokens; this is the release's run_linear_eval.py, 100 epochs on
# class token and mean.
_base_ = ['../_base_/runtime.py', '../_base_/models/beit_base_classifier.py',
          '../_base_/datasets/imagenet_finetune.py']

model = dict(
    type='beit_mm.LinearProbe',
    backbone=dict(
        drop_path_rate=0.0,
        out_type='raw',
        out_indices=list(range(12)),
        init_cfg=dict(type='Pretrained', checkpoint='work_dirs/beit_pretrain/epoch_800.pth', prefix='backbone.')),
    head=dict(_delete_=True, type='beit_mm.LinearProbeHead', num_classes=1000),
    train_cfg=dict(_delete_=True))

train_dataloader = dict(
    dataset=dict(pipeline=[
        dict(type='beit_mm.LoadImage', imdecode_backend='simplejpeg'),
        # torchvision's default interpolation, as in the release.
        dict(type='beit_mm.RandomResizedCrop', scale=224, interpolation='bilinear', resize_backend='torch'),
        dict(type='beit_mm.RandomFlip', prob=0.5, direction='horizontal'),
        dict(type='beit_mm.PackInputs')
    ]))
val_evaluator = dict(_delete_=True, type='beit_mm.LinearProbeAccuracy')
test_evaluator = val_evaluator

optim_wrapper = dict(
    type='beit_mm.AutocastOptimWrapper',
    optimizer=dict(type='AdamW', lr=4e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-4, fused=True),
    constructor='beit_mm.TrainableOptimWrapperConstructor')
max_epochs = 100
# The release changes the rate once per epoch.
param_scheduler = [dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=True, begin=0, end=max_epochs)]

train_cfg = dict(type='beit_mm.EpochTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(checkpoint=dict(save_best='linear_probe/best', rule='greater'))
auto_scale_lr = dict(base_batch_size=1024)
