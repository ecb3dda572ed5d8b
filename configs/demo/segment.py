# The tiny BEiT under UperNet on scenes of digits over photographs: background and ten digits. Part of `make demo`.
# It starts from the weights fine-tuned on single digits, the paper's intermediate fine-tuning (section 3.2).
#
#   python tools/train.py configs/demo/segment.py    1 process x 8 images
#
# No published score.
_base_ = '../beit_segment.py'

work_dir = 'work_dirs/demo/segment'
width = 96
num_classes = 11
# Most pixels are background: with equal weights the loss would hardly see which digit a digit is.
class_weight = [0.2] + [1.0] * 10
crop_size = (96, 96)
model = dict(
    data_preprocessor=dict(size=crop_size, test_cfg=dict(size=crop_size)),
    backbone=dict(img_size=96, embed_dim=width, depth=4, num_heads=4, drop_path_rate=0.0, out_indices=[0, 1, 2, 3],
                  init_cfg=dict(checkpoint='work_dirs/demo/finetune/epoch_9.pth')),
    neck=dict(embed_dim=width),
    decode_head=dict(
        in_channels=[width] * 4, channels=64, num_classes=num_classes, loss_decode=dict(class_weight=class_weight)),
    auxiliary_head=dict(
        in_channels=width, channels=32, num_classes=num_classes, loss_decode=dict(class_weight=class_weight)),
    test_cfg=dict(crop_size=crop_size, stride=(64, 64)))

load_labels = dict(type='beit_mm.LoadAnnotations', num_classes=num_classes)
test_pipeline = [dict(type='LoadImageFromFile'), load_labels, dict(type='PackSegInputs')]
# The background is grey; the digits' hues are spread over the circle.
palette = [[60, 60, 60], [255, 51, 51], [255, 173, 51], [214, 255, 51], [92, 255, 51], [51, 255, 133],
           [51, 255, 255], [51, 133, 255], [92, 51, 255], [214, 51, 255], [255, 51, 173]]
dataset = dict(
    type='BaseSegDataset',
    data_root='data/digits/ade20k',
    img_suffix='.jpg',
    seg_map_suffix='.png',
    reduce_zero_label=True,
    metainfo=dict(classes=['background', *(f'digit {digit}' for digit in range(10))], palette=palette))
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    dataset=dict(
        **dataset,
        pipeline=[
            dict(type='beit_mm.LoadImage', imdecode_backend='simplejpeg'),
            load_labels,
            dict(type='RandomResize', scale=(384, 96), ratio_range=(0.9, 1.3), keep_ratio=True),
            dict(type='beit_mm.RandomCrop', crop_size=crop_size),
            dict(type='beit_mm.PackSegInputs')
        ]))
val_dataloader = dict(
    num_workers=1,
    dataset=dict(**dataset, pipeline=test_pipeline))
test_dataloader = val_dataloader

max_iters = 1200
optim_wrapper = dict(
    optimizer=dict(lr=3e-3),
    paramwise_cfg=dict(layer_decay_rate=0.9, custom_keys=dict(relative_position_bias_table=dict(lr_mult=10))))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=80),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=0, end=max_iters),
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
default_hooks = dict(
    logger=dict(interval=10), checkpoint=dict(interval=100, max_keep_ckpts=1),
    pictures=dict(interval=100, num_images=4))
auto_scale_lr = dict(base_batch_size=8)
