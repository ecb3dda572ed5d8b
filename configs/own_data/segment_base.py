# BEiT base 512 under UperNet, fine-tuned on a few labelled images of your own from released weights. See
# docs/own_data.md.
#
#   python tools/train.py configs/own_data/segment_base.py         1 GPU x 4 images
#   python tools/test.py configs/own_data/segment_base.py work_dirs/own_data/segment_base/iter_4000.pth [--tta]
#
# No published score; all values that differ from the base are our choice, for 50 to 5,000 images: a larger rate,
# because the run is short, and a smaller rate in early layers.
_base_ = '../segment/beit_base_512_ft22k_to_ade20k.py'

# Yours: an image and a PNG of the same name in images/train and labels/train, and in images/val and labels/val. A pixel
# of the PNG is the index of its class in the list, from 0; 255 is ignored.
data_root = 'data/own/segment'
classes = ['background', 'road', 'building']
weights = 'checkpoints/beit_base_patch16_224_pt22k_ft22k.pth'

work_dir = 'work_dirs/own_data/segment_base'
num_classes = len(classes)
model = dict(
    backbone=dict(init_cfg=dict(checkpoint=weights)),
    decode_head=dict(num_classes=num_classes),
    auxiliary_head=dict(num_classes=num_classes))

# Colours of drawn predictions, one for each class; the first is black.
palette = [[37 * index % 256, 97 * index % 256, 173 * index % 256] for index in range(num_classes)]
dataset = dict(
    type='beit_mm.SegFolders',
    data_root=data_root,
    reduce_zero_label=False,
    metainfo=dict(classes=classes, palette=palette))
train_pipeline = [
    _base_.load,
    dict(_base_.load_labels, num_classes=num_classes),
    _base_.random_resize,
    _base_.random_crop,
    _base_.flip,
    _base_.distort,
    _base_.pack
]
train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        _delete_=True,
        **dataset,
        data_prefix=dict(img_path='images/train', seg_map_path='labels/train'),
        pipeline=train_pipeline))
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        **dataset,
        data_prefix=dict(img_path='images/val', seg_map_path='labels/val'),
        pipeline=_base_.test_pipeline))
test_dataloader = val_dataloader

max_iters = 4000
optim_wrapper = dict(optimizer=dict(lr=1e-4), paramwise_cfg=dict(layer_decay_rate=0.8))
param_scheduler = [
    dict(_base_.param_scheduler[0], end=200),
    dict(_base_.param_scheduler[1], end=max_iters),
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters // 10)
default_hooks = dict(
    logger=dict(interval=10), pictures=dict(interval=100),
    checkpoint=dict(interval=max_iters // 10, save_best='mIoU'))
auto_scale_lr = dict(base_batch_size=4)
