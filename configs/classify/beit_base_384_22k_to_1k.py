# BEiT base 384: beit_base_224_22k_to_1k.py at 384 x 384, from the same weights (BEiT release).
#
#   tools/dist_train.sh configs/classify/beit_base_384_22k_to_1k.py 8       8 GPUs x 64 images
#   python tools/test.py configs/classify/beit_base_384_22k_to_1k.py beit_base_patch16_384_pt22k_ft22kto1k.pth
#
# Published for that file: 86.81 % top-1, 98.14 % top-5 at crop ratio 1.0 (PASSL's model zoo); the release prints
# 86.820 %, 98.124 %.
_base_ = 'beit_base_224_22k_to_1k.py'

model = dict(backbone=dict(img_size=384))

random_crop = dict(_base_.random_crop, scale=384)
train_pipeline = [_base_.load, random_crop, _base_.flip, _base_.augment, _base_.erase, _base_.pack]
test_pipeline = [
    dict(type='beit_mm.LoadImage'),
    dict(_base_.resize, scale=384),
    dict(_base_.center_crop, crop_size=384),
    dict(type='PackInputs')
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
