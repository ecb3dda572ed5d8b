# A small tokenizer on the embedded digits: one token of 128 per 8 x 8 pixels of a 48 x 48 view. Part of `make demo`.
#
#   python tools/train.py configs/demo/tokenizer.py    1 process x 16 images
#
# No published score.
_base_ = '../beit_tokenizer.py'

work_dir = 'work_dirs/demo/tokenizer'
vocab_size = 128
# Our choice: the full KL weight from the start, and many small steps. The tokens are then used far more evenly than
# with a weight that rises from zero over few large steps (perplexity 29 against 14 after as many images).
model = dict(vocab_size=vocab_size, n_hid=16, n_init=32, blocks_per_group=1, kl_weight=6.6 / 192)

classes = [f'digit_{digit}' for digit in range(10)]
dataset = dict(data_root='data/digits/imagenet', metainfo=dict(classes=classes))
train_dataloader = dict(
    batch_size=16,
    num_workers=1,
    dataset=dict(
        **dataset,
        pipeline=[
            dict(type='beit_mm.LoadImage', imdecode_backend='simplejpeg'),
            dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4),
            dict(type='beit_mm.RandomResizedCrop', scale=48, crop_ratio_range=(0.5, 1.0), resize_backend='torch',
                 interpolation='lanczos'),
            dict(type='beit_mm.PackInputs')
        ]))
val_dataloader = dict(
    num_workers=1,
    dataset=dict(
        **dataset,
        pipeline=[
            dict(type='beit_mm.LoadImage'),
            dict(type='Resize', scale=(48, 48), backend='pillow', interpolation='lanczos'),
            dict(type='PackInputs')
        ]))
test_dataloader = val_dataloader

max_iters = 700
optim_wrapper = dict(optimizer=dict(lr=3e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=40),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=False, begin=40, end=max_iters),
]
custom_hooks = [dict(type='beit_mm.AnnealHook', attribute='temperature', start=1.0, end=1 / 16, num_iters=350)]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
val_evaluator = dict(vocab_size=vocab_size)
test_evaluator = val_evaluator
default_hooks = dict(
    logger=dict(interval=10), checkpoint=dict(interval=100, max_keep_ckpts=1), pictures=dict(interval=50, num_images=4))
auto_scale_lr = dict(base_batch_size=16)
