# BEiT v2 large 224, fine-tuned on ImageNet-1k from the 1k weights pre-trained for 300 epochs (arXiv 2208.06366).
#
#   tools/dist_train.sh configs/classify/beitv2_large_224_pt1k_300e_to_1k.py 8  8 GPUs x 64 images, 2 steps accumulated
#
# Published: 86.6 % top-1 (BEiT v2 release).
_base_ = 'beitv2_large_224_pt1k_to_1k.py'

model = dict(backbone=dict(init_cfg=dict(checkpoint='checkpoints/beitv2_large_patch16_224_pt1k_300e.pth')))

optim_wrapper = dict(optimizer=dict(lr=5e-4))
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], eta_min_ratio=1e-6 / 5e-4)]
