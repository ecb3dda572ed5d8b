# BEiT tiny, pre-trained on your own images with the tokenizer of tokenizer.py. See docs/own_data.md.
#
#   python tools/train.py configs/own_data/pretrain.py             1 GPU x 128 images
#
# No published score; all values that differ from the base are our choice, for 10,000 to 100,000 images. The rate is
# the paper's, scaled by the square root of the batch.
_base_ = '../beit_pretrain.py'

# Yours: images in one folder or its subfolders, without labels.
data_root = 'data/own/images'
img_size = 224  # a multiple of 16, the same as in tokenizer.py

work_dir = 'work_dirs/own_data/pretrain'
grid = img_size // 16
num_masked = round(75 / 196 * grid**2)  # the paper's share
model = dict(
    backbone=dict(img_size=img_size, embed_dim=192, num_heads=3),
    target=dict(
        tokenizer=dict(vocab_size=1024, n_hid=64, n_init=64,
                       init_cfg=dict(checkpoint='work_dirs/own_data/tokenizer/iter_20000.pth'))),
    recovered=dict(num_masked=num_masked))

random_crop = dict(_base_.random_crop, scale=img_size, second_scale=img_size // 2)
# The paper's 75 of 14 x 14 patches in blocks of at least 16, on any grid.
mask = [
    dict(type='beit_mm.BlockwiseMaskGenerator', grid=(grid, grid), num_masked=num_masked,
         min_block_size=max(1, round(16 / 196 * grid**2)), min_aspect=0.3),
    dict(type='beit_mm.PackTwoViews')
]
train_dataloader = dict(
    batch_size=128,
    num_workers=8,
    dataset=dict(
        _delete_=True,
        type='beit_mm.ClassFolders',
        data_root=data_root,
        with_label=False,
        pipeline=[_base_.load, _base_.jitter, random_crop, *mask]))

max_epochs = 300
warmup_epochs = 10
optim_wrapper = dict(optimizer=dict(lr=3.75e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-9, by_epoch=True, begin=0, end=warmup_epochs, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min_ratio=1e-5 / 1.5e-3, by_epoch=True, begin=warmup_epochs, end=max_epochs,
         convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=max_epochs)
default_hooks = dict(pictures=dict(interval=1000))
auto_scale_lr = dict(base_batch_size=128)
