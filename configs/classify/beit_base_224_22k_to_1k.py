# BEiT base 224, fine-tuned on ImageNet-1k from the weights fine-tuned on ImageNet-22k (BEiT release).
#
#   tools/dist_train.sh configs/classify/beit_base_224_22k_to_1k.py 8        8 GPUs x 64 images
#   python tools/test.py configs/classify/beit_base_224_22k_to_1k.py beit_base_patch16_224_pt22k_ft22kto1k.pth
#
# Published for that file: 85.21 % top-1, 97.66 % top-5 at crop ratio 0.9 (PASSL's model zoo).
_base_ = ['../_base_/runtime.py', '../_base_/models/beit_base_classifier.py',
          '../_base_/datasets/imagenet_22k_to_1k.py', '../_base_/schedules/22k_to_1k.py']

model = dict(
    backbone=dict(
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/beit_base_patch16_224_pt22k_ft22k.pth',
                      prefix='backbone.')),
    # No Mixup and CutMix: training starts from fine-tuned weights.
    train_cfg=dict(_delete_=True),
    data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3))

default_hooks = dict(checkpoint=dict(save_best='auto'))
