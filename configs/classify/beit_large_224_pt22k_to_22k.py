# BEiT large 224, intermediate fine-tuning on the 21,841 classes of ImageNet-22k (BEiT release).
#
#   tools/dist_train.sh configs/classify/beit_large_224_pt22k_to_22k.py 8
#       on each of 2 nodes: 16 GPUs x 64 images, 2 steps accumulated
#
# No published score: its weights, beit_large_patch16_224_pt22k_ft22k.pth,
# are the start of beit_large_224_22k_to_1k.py.
_base_ = ['../_base_/runtime.py', '../_base_/models/beit_large_classifier.py',
          '../_base_/datasets/imagenet22k_finetune.py', '../_base_/schedules/finetune_22k_90e.py']

model = dict(
    backbone=dict(
        drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/beit_large_patch16_224_pt22k.pth',
                      prefix='backbone.')),
    head=dict(num_classes=21841),
    # No Mixup and CutMix, as in the release.
    train_cfg=dict(_delete_=True),
    data_preprocessor=dict(num_classes=21841, mean=[127.5] * 3, std=[127.5] * 3))

train_dataloader = dict(batch_size=64)
optim_wrapper = dict(
    accumulative_counts=2,
    optimizer=dict(lr=2e-3),
    clip_grad=dict(max_norm=1.0),
    paramwise_cfg=dict(layer_decay_rate=0.75))
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], eta_min_ratio=1e-6 / 2e-3)]
# GPUs x images: --auto-scale-lr does not count accumulated steps.
auto_scale_lr = dict(base_batch_size=1024)
