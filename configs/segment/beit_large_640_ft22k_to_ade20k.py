# BEiT large 640 under UperNet on ADE20K, from the weights fine-tuned on ImageNet-22k (BEiT release).
#
#   tools/dist_train.sh configs/segment/beit_large_640_ft22k_to_ade20k.py 8    8 GPUs x 1 image, 2 steps accumulated
#   python tools/test.py configs/segment/beit_large_640_ft22k_to_ade20k.py FILE [--tta]
#
# Published for beit_large_patch16_640_pt22k_ft22ktoade20k.pth: 56.7 % mIoU, 57.0 % multi-scale with flip
# (BEiT release).
_base_ = ['../_base_/seg_runtime.py', '../_base_/models/beit_large_upernet.py',
          '../_base_/datasets/ade20k_640.py', '../_base_/schedules/ade20k_160k.py']

crop_size = (640, 640)
model = dict(
    data_preprocessor=dict(size=crop_size, test_cfg=dict(size=crop_size)),
    backbone=dict(
        img_size=640,
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/beit_large_patch16_224_pt22k_ft22k.pth',
                      prefix='backbone.')),
    test_cfg=dict(crop_size=crop_size, stride=(426, 426)))

train_dataloader = dict(batch_size=1)
optim_wrapper = dict(
    accumulative_counts=2, optimizer=dict(lr=2e-5), paramwise_cfg=dict(layer_decay_rate=0.95))
# Twice the iterations for 160,000 updates, as in the release: MMEngine counts every step.
max_iters = 320000
param_scheduler = [
    dict(_base_.param_scheduler[0], end=3000),
    dict(_base_.param_scheduler[1], end=max_iters + 1),
]
train_cfg = dict(max_iters=max_iters, val_interval=32000)
default_hooks = dict(checkpoint=dict(interval=32000))
# GPUs x images: --auto-scale-lr does not count accumulated steps.
auto_scale_lr = dict(base_batch_size=8)
