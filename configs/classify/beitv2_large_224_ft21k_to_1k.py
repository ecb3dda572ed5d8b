# BEiT v2 large 224, fine-tuned on ImageNet-1k from the weights fine-tuned on ImageNet-21k (arXiv 2208.06366).
#
#   tools/dist_train.sh configs/classify/beitv2_large_224_ft21k_to_1k.py 8    8 GPUs x 64 images, 2 steps accumulated
#   python tools/test.py configs/classify/beitv2_large_224_ft21k_to_1k.py beitv2_large_patch16_224_pt1k_ft21kto1k.pth
#
# Published for that file: 88.4 % top-1, 98.6 % top-5; printed: 88.370 %, 98.578 % (BEiT v2 release).
_base_ = ['../_base_/runtime.py', '../_base_/models/beit_large_classifier.py',
          '../_base_/datasets/imagenet_finetune.py', '../_base_/schedules/finetune_50e.py']

model = dict(
    backbone=dict(
        drop_path_rate=0.25,
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/beitv2_large_patch16_224_pt1k_ft21k.pth',
                      prefix='backbone.')),
    # No Mixup and CutMix: training starts from fine-tuned weights.
    train_cfg=dict(_delete_=True))

train_dataloader = dict(batch_size=64)
optim_wrapper = dict(optimizer=dict(lr=7e-5), paramwise_cfg=dict(layer_decay_rate=0.8))
max_epochs = 20
param_scheduler = [
    _base_.param_scheduler[0],
    dict(_base_.param_scheduler[1], eta_min_ratio=1e-6 / 7e-5, end=max_epochs),
]
train_cfg = dict(max_epochs=max_epochs)
default_hooks = dict(checkpoint=dict(save_best='auto'))
