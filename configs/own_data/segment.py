# BEiT tiny under UperNet on your own labelled images, from the weights of pretrain.py. See docs/own_data.md.
#
#   python tools/train.py configs/own_data/segment.py              1 GPU x 8 images
#   python tools/test.py configs/own_data/segment.py work_dirs/own_data/segment/iter_20000.pth [--tta]
#
# No published score; all values that differ from the base are our choice. The rate is the paper's, scaled by the
# square root of the batch.
_base_ = '../beit_segment.py'

# Yours: an image and a PNG of the same name in images/train and labels/train, and in images/val and labels/val. A pixel
# of the PNG is the index of its class in the list, from 0; 255 is ignored.
data_root = 'data/own/segment'
classes = ['background', 'road', 'building']
crop = 512  # side of the training crops and of the windows in a test, a multiple of 16

work_dir = 'work_dirs/own_data/segment'
crop_size = (crop, crop)
width = 192
num_classes = len(classes)
model = dict(
    data_preprocessor=dict(size=crop_size, test_cfg=dict(size=crop_size)),
    backbone=dict(img_size=crop, embed_dim=width, num_heads=3,
                  init_cfg=dict(checkpoint='work_dirs/own_data/pretrain/epoch_300.pth')),
    neck=dict(embed_dim=width),
    decode_head=dict(in_channels=[width] * 4, channels=width, num_classes=num_classes),
    auxiliary_head=dict(in_channels=width, channels=width // 2, num_classes=num_classes),
    test_cfg=dict(crop_size=crop_size, stride=(crop * 2 // 3, crop * 2 // 3)))

# Colours of drawn predictions, one for each class; the first is black.
palette = [[37 * index % 256, 97 * index % 256, 173 * index % 256] for index in range(num_classes)]
dataset = dict(
    type='beit_mm.SegFolders',
    data_root=data_root,
    reduce_zero_label=False,
    metainfo=dict(classes=classes, palette=palette))
scale = (4 * crop, crop)
load_labels = dict(_base_.load_labels, num_classes=num_classes)
train_dataloader = dict(
    batch_size=8,
    dataset=dict(
        _delete_=True,
        **dataset,
        data_prefix=dict(img_path='images/train', seg_map_path='labels/train'),
        pipeline=[
            _base_.load,
            load_labels,
            dict(_base_.random_resize, scale=scale),
            dict(_base_.random_crop, crop_size=crop_size),
            _base_.flip,
            _base_.distort,
            _base_.pack
        ]))
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    load_labels,
    dict(type='PackSegInputs')
]
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        **dataset,
        data_prefix=dict(img_path='images/val', seg_map_path='labels/val'),
        pipeline=test_pipeline))
test_dataloader = val_dataloader
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            # The short side is never smaller than the window.
            [dict(type='Resize', scale=(int(4 * crop * max(ratio, 1)), int(crop * max(ratio, 1))), keep_ratio=True)
             for ratio in _base_.img_ratios],
            _base_.flips,
            [load_labels],
            [dict(type='PackSegInputs')],
        ])
]

max_iters = 20000
optim_wrapper = dict(optimizer=dict(lr=5e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1000),
    # It begins at step 0, so the warm-up multiplies it, as in the base.
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=0, end=max_iters),
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters // 10)
default_hooks = dict(checkpoint=dict(interval=max_iters // 10))
auto_scale_lr = dict(base_batch_size=8)
