# The tiny BEiT fine-tuned on the digits' ten classes. Part of `make demo`, which also runs it from random weights:
#
#   python tools/train.py configs/demo/finetune.py    1 process x 32 images
#   python tools/train.py configs/demo/finetune.py --cfg-options model.backbone.init_cfg=None \
#       --work-dir work_dirs/demo/finetune_from_random
#
# No published score. With ten labels per class: --cfg-options train_dataloader.dataset.ann_file=meta/train_10.txt
_base_ = '../beit_finetune.py'

work_dir = 'work_dirs/demo/finetune'
model = dict(
    backbone=dict(img_size=96, embed_dim=96, depth=4, num_heads=4, drop_path_rate=0.0,
                  init_cfg=dict(checkpoint='work_dirs/demo/pretrain/epoch_20.pth')),
    head=dict(num_classes=10, in_channels=96),
    train_cfg=dict(_delete_=True),
    data_preprocessor=dict(num_classes=10))

classes = [f'digit_{digit}' for digit in range(10)]
dataset = dict(data_root='data/digits/imagenet', metainfo=dict(classes=classes))
train_dataloader = dict(
    batch_size=32,
    num_workers=1,
    dataset=dict(
        **dataset,
        pipeline=[
            dict(type='beit_mm.LoadImage', imdecode_backend='simplejpeg'),
            dict(type='beit_mm.RandomResizedCrop', scale=96, crop_ratio_range=(0.85, 1.0),
                 aspect_ratio_range=(0.9, 1.1), resize_backend='torch', interpolation='bicubic'),
            dict(type='beit_mm.PackInputs')
        ]))
val_dataloader = dict(
    batch_size=64,
    num_workers=1,
    dataset=dict(**dataset, pipeline=[dict(type='beit_mm.LoadImage'), dict(type='PackInputs')]))
test_dataloader = val_dataloader

max_epochs = 9
warmup_epochs = 1
# As in pre-training, the biases must grow quickly.
optim_wrapper = dict(
    optimizer=dict(lr=3e-3),
    paramwise_cfg=dict(layer_decay_rate=0.9, custom_keys=dict(relative_position_bias_table=dict(lr_mult=10))))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-9, by_epoch=True, begin=0, end=warmup_epochs, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.01, by_epoch=True, begin=warmup_epochs, end=max_epochs,
         convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=max_epochs, val_interval=3)
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=3, max_keep_ckpts=1, save_best=None),
    pictures=dict(interval=50, num_images=4))
auto_scale_lr = dict(base_batch_size=32)
