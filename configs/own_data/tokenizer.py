# A tokenizer for your own images: 1,024 visual tokens, one per 8 x 8 pixels. See docs/own_data.md.
#
#   python tools/train.py configs/own_data/tokenizer.py            1 GPU x 64 images
#
# No published score; all values that differ from the base are our choice, for 10,000 to 100,000 images.
_base_ = '../beit_tokenizer.py'

# Yours: images in one folder or its subfolders, without labels.
data_root = 'data/own/images'
img_size = 224  # of pre-training, a multiple of 16; the tokenizer sees half of it

work_dir = 'work_dirs/own_data/tokenizer'
vocab_size = 1024
view_size = img_size // 2
model = dict(vocab_size=vocab_size, n_hid=64, n_init=64)

dataset = dict(type='beit_mm.ClassFolders', data_root=data_root, with_label=False)
train_dataloader = dict(
    num_workers=4,
    dataset=dict(
        _delete_=True,
        **dataset,
        pipeline=[_base_.load, dict(_base_.random_crop, scale=view_size), _base_.flip, _base_.pack]))
# The training images: this only watches whether the vocabulary stays in use.
val_dataloader = dict(
    num_workers=4,
    dataset=dict(
        _delete_=True,
        **dataset,
        indices=-256,
        pipeline=[
            dict(type='beit_mm.LoadImage'),
            dict(_base_.resize, scale=view_size * 8 // 7),
            dict(_base_.center_crop, crop_size=view_size),
            dict(type='PackInputs')
        ]))
test_dataloader = val_dataloader
val_evaluator = dict(vocab_size=vocab_size)
test_evaluator = val_evaluator

max_iters = 20000
optim_wrapper = dict(optimizer=dict(lr=5e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-9, by_epoch=False, begin=0, end=500),
    dict(type='CosineAnnealingLR', eta_min=5e-6, by_epoch=False, begin=500, end=max_iters),
]
custom_hooks = [
    dict(type='beit_mm.AnnealHook', attribute='temperature', start=1.0, end=1 / 16, num_iters=max_iters * 3 // 4),
    # 6.6 belongs to a sum over positions; the loss is a mean over 64 x 3 sub-pixels per position.
    dict(type='beit_mm.AnnealHook', attribute='kl_weight', start=0.0, end=6.6 / 192, num_iters=max_iters // 4),
    dict(type='EMAHook', ema_type='ExponentialMovingAverage', momentum=0.001),
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters // 4)
default_hooks = dict(
    checkpoint=dict(interval=max_iters // 4, max_keep_ckpts=1), pictures=dict(interval=max(1, max_iters // 20)))
auto_scale_lr = dict(base_batch_size=64)
