# BEiT large 384, fine-tuned further on ImageNet-1k from the 1k weights fine-tuned at 224 x 224 (arXiv 2106.08254).
#
#   tools/dist_train.sh configs/classify/beit_large_384_ft1k_to_1k.py 8    8 GPUs x 32 images, 2 steps accumulated
#
# Published: 86.3 % top-1 (table 1). As the paper says (section 3.1), 10 epochs with the settings of DeiT's command
# for 384 x 384: 512 images, weight decay 1e-8, a constant rate of 5e-6. One epoch of warm-up is our choice.
_base_ = ['../_base_/runtime.py', '../_base_/models/beit_large_classifier.py',
          '../_base_/datasets/imagenet_384.py', '../_base_/schedules/22k_to_1k.py']

model = dict(
    backbone=dict(
        img_size=384,
        drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint='work_dirs/beit_large_224_pt1k_to_1k/epoch_50.pth',
                      prefix='backbone.')))

train_dataloader = dict(batch_size=32)
optim_wrapper = dict(accumulative_counts=2, optimizer=dict(lr=5e-6), paramwise_cfg=dict(layer_decay_rate=1.0))
max_epochs = 10
warmup_epochs = 1
param_scheduler = [dict(_base_.param_scheduler[0], end=warmup_epochs)]
train_cfg = dict(max_epochs=max_epochs)
# GPUs x images: --auto-scale-lr does not count accumulated steps.
auto_scale_lr = dict(base_batch_size=256)
default_hooks = dict(checkpoint=dict(save_best='auto'))
