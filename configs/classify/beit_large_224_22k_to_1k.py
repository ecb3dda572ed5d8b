# BEiT large 224, fine-tuned on ImageNet-1k from the weights fine-tuned on ImageNet-22k (BEiT release).
#
#   tools/dist_train.sh configs/classify/beit_large_224_22k_to_1k.py 8       8 GPUs x 32 images, 2 steps accumulated
#   python tools/test.py configs/classify/beit_large_224_22k_to_1k.py beit_large_patch16_224_pt22k_ft22kto1k.pth
#
# Published for that file: 87.48 % top-1, 98.30 % top-5 at crop ratio 0.9 (PASSL's model zoo); 87.396 %, 98.282 % at
# 0.875 (BEiT release): --cfg-options test_dataloader.dataset.pipeline.1.scale=256
_base_ = ['../_base_/runtime.py', '../_base_/models/beit_large_classifier.py',
          '../_base_/datasets/imagenet_22k_to_1k.py', '../_base_/schedules/22k_to_1k.py']

model = dict(
    backbone=dict(
        drop_path_rate=0.4,
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/beit_large_patch16_224_pt22k_ft22k.pth',
                      prefix='backbone.')),
    # No Mixup and CutMix: training starts from fine-tuned weights.
    train_cfg=dict(_delete_=True),
    data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3))

train_dataloader = dict(batch_size=32)
optim_wrapper = dict(accumulative_counts=2, paramwise_cfg=dict(layer_decay_rate=0.9))
default_hooks = dict(checkpoint=dict(save_best='auto'))
# GPUs x images: --auto-scale-lr does not count accumulated steps.
auto_scale_lr = dict(base_batch_size=256)
