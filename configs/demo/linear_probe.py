# Linear probes of the tiny BEiT on the digits' ten classes: how well each block separates them. Needs the digits and
# the weights of `make demo`.
#
#   python tools/train.py configs/demo/linear_probe.py    1 process x 64 images
#
# No published score.
_base_ = '../classify/linear_probe_base_224_1k.py'

work_dir = 'work_dirs/demo/linear_probe'
model = dict(
    backbone=dict(img_size=96, embed_dim=96, depth=4, num_heads=4, out_indices=[0, 1, 2, 3],
                  init_cfg=dict(checkpoint='work_dirs/demo/pretrain/epoch_20.pth')),
    head=dict(num_classes=10),
    data_preprocessor=dict(num_classes=10))

classes = [f'digit_{digit}' for digit in range(10)]
dataset = dict(data_root='data/digits/imagenet', metainfo=dict(classes=classes))
train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    dataset=dict(
        **dataset,
        pipeline=[
            dict(type='beit_mm.LoadImage'),
            # No flip: a mirrored digit is another symbol.
            dict(type='RandomResizedCrop', scale=96, crop_ratio_range=(0.85, 1.0), aspect_ratio_range=(0.9, 1.1),
                 backend='pillow', interpolation='bilinear'),
            dict(type='PackInputs')
        ]))
val_dataloader = dict(
    batch_size=64,
    num_workers=1,
    dataset=dict(**dataset, pipeline=[dict(type='beit_mm.LoadImage'), dict(type='PackInputs')]))
test_dataloader = val_dataloader

max_epochs = 10
# Fewer steps than the recipe, so larger ones.
optim_wrapper = dict(optimizer=dict(lr=2e-2))
param_scheduler = [dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=True, begin=0, end=max_epochs)]
train_cfg = dict(max_epochs=max_epochs, val_interval=5)
default_hooks = dict(checkpoint=dict(interval=max_epochs, max_keep_ckpts=1))
auto_scale_lr = dict(base_batch_size=64)
