# The BEiT release's order of steps for imagenet_pretrain.py: decode with Pillow, jitter the colours of the whole image,
# flip, then crop and resize. A recipe of 224 x 224 pixels uses all steps but its mask generator by this line:
#
#   train_dataloader = dict(dataset=dict(pipeline=[*_base_.release_order, *_base_.mask]))
random_crop = dict(
    type='beit_mm.TwoViewRandomResizedCrop', scale=224, second_scale=112, interpolation='bicubic',
    second_interpolation='lanczos', crop_ratio_range=(0.08, 1.0))
release_order = [
    dict(type='beit_mm.LoadImage', imdecode_backend='pillow'),
    dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    random_crop
]
