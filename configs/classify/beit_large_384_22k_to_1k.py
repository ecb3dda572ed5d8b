# BEiT large 384: beit_large_224_22k_to_1k.py at 384 x 384, from the same weights (BEiT release).
#
#   tools/dist_train.sh configs/classify/beit_large_384_22k_to_1k.py 8       8 GPUs x 32 images, 2 steps accumulated
#   python tools/test.py configs/classify/beit_large_384_22k_to_1k.py beit_large_patch16_384_pt22k_ft22kto1k.pth
#
# Published for that file: 88.40 % top-1, 98.60 % top-5 at crop ratio 1.0 (PASSL's model zoo); the release prints
# 88.408 %, 98.602 %.
_base_ = 'beit_large_224_22k_to_1k.py'

model = dict(backbone=dict(img_size=384))

train_dataloader = dict(
    dataset=dict(pipeline=[
        _base_.train_dataloader.dataset.pipeline[0],
        dict(_base_.train_dataloader.dataset.pipeline[1], scale=384),
        *_base_.train_dataloader.dataset.pipeline[2:]
    ]))
val_dataloader = dict(
    dataset=dict(pipeline=[
        dict(type='beit_mm.LoadImage'),
        dict(type='ResizeEdge', scale=384, edge='short', backend='pillow', interpolation='bicubic'),
        dict(type='CenterCrop', crop_size=384),
        dict(type='PackInputs')
    ]))
test_dataloader = val_dataloader
