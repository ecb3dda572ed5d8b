# BEiT base 384, fine-tuned further on ImageNet-1k from the 1k weights fine-tuned at 224 x 224 (arXiv 2106.08254).
#
#   tools/dist_train.sh configs/classify/beit_base_384_ft1k_to_1k.py 8    8 GPUs x 64 images
#
# Published: 84.6 % top-1 (table 1). As the paper says (section 3.1), 10 epochs with the settings of DeiT's command
# for 384 x 384: 512 images, weight decay 1e-8, a constant rate of 5e-6. One epoch of warm-up is our choice.
_base_ = ['../_base_/runtime.py', '../_base_/models/beit_base_classifier.py',
          '../_base_/datasets/imagenet_384.py', '../_base_/schedules/22k_to_1k.py']

model = dict(
    backbone=dict(
        img_size=384,
        init_cfg=dict(type='Pretrained', checkpoint='work_dirs/beit_finetune/epoch_100.pth',
                      prefix='backbone.')))

optim_wrapper = dict(optimizer=dict(lr=5e-6), paramwise_cfg=dict(layer_decay_rate=1.0))
max_epochs = 10
warmup_epochs = 1
param_scheduler = [dict(_base_.param_scheduler[0], end=warmup_epochs)]
train_cfg = dict(max_epochs=max_epochs)
default_hooks = dict(checkpoint=dict(save_best='auto'))
