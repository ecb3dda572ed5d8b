# A tiny BEiT pre-trained on the embedded digits: 96 x 96 pixels, 6 x 6 patches, 14 of them masked. Part of `make demo`.
#
#   python tools/train.py configs/demo/pretrain.py    1 process x 64 images
#
# No published score.
_base_ = '../beit_pretrain.py'

work_dir = 'work_dirs/demo/pretrain'
model = dict(
    backbone=dict(img_size=96, embed_dim=96, depth=4, num_heads=4, drop_path_rate=0.0),
    target=dict(
        tokenizer=dict(vocab_size=128, n_hid=16, n_init=32, blocks_per_group=1,
                       init_cfg=dict(checkpoint='work_dirs/demo/tokenizer/iter_700.pth'))),
    recovered=dict(num_masked=14))

classes = [f'digit_{digit}' for digit in range(10)]
dataset = dict(data_root='data/digits/imagenet', metainfo=dict(classes=classes))
load = dict(type='beit_mm.LoadImage', imdecode_backend='simplejpeg')
view_sizes = dict(
    type='beit_mm.TwoViewRandomResizedCrop', scale=96, second_scale=48, resize_backend='torch')
train_views = [
    load,
    dict(type='beit_mm.DrawColorJitter', brightness=0.4, contrast=0.4, saturation=0.4),
    dict(**view_sizes, crop_ratio_range=(0.5, 1.0))
]
val_views = [
    load,
    dict(**view_sizes, crop_ratio_range=(1.0, 1.0), aspect_ratio_range=(1.0, 1.0))
]
mask = [
    dict(type='beit_mm.BlockwiseMaskGenerator', grid=(6, 6), num_masked=14, min_block_size=3),
    dict(type='beit_mm.PackTwoViews')
]
train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    dataset=dict(**dataset, pipeline=[*train_views, *mask]))
val_dataloader = dict(
    batch_size=64,
    num_workers=1,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='ImageNet', **dataset, split='val', pipeline=[*val_views, *mask]))
val_evaluator = dict(type='beit_mm.MaskedTokenAccuracy')
val_cfg = dict()
test_dataloader = val_dataloader
test_evaluator = val_evaluator
test_cfg = dict()

# Masked patches differ by their positions alone, which the model knows from these biases: they must grow quickly.
optim_wrapper = dict(
    optimizer=dict(lr=3e-3), paramwise_cfg=dict(custom_keys=dict(relative_position_bias_table=dict(lr_mult=10))))
max_epochs = 20
warmup_epochs = 1
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-9, by_epoch=True, begin=0, end=warmup_epochs, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.01, by_epoch=True, begin=warmup_epochs, end=max_epochs,
         convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
default_hooks = dict(
    logger=dict(interval=10), checkpoint=dict(interval=2, max_keep_ckpts=1), pictures=dict(interval=50, num_images=4))
auto_scale_lr = dict(base_batch_size=64)
