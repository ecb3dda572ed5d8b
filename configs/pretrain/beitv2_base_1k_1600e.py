# BEiT v2 base, pre-trained on ImageNet-1k for 1,600 epochs (arXiv 2208.06366).
#
#   tools/dist_train.sh configs/pretrain/beitv2_base_1k_1600e.py 8    8 GPUs x 256 images
#
# Published: 85.5 % top-1 by classify/beitv2_base_224_pt1k_to_1k.py, 53.1 % mIoU by
# segment/beitv2_base_512_pt1k_to_ade20k.py (BEiT v2 release). The released tokenizer: see beitv2_base_1k_300e.py.
_base_ = 'beitv2_base_1k_300e.py'

model = dict(backbone=dict(drop_path_rate=0.1))
optim_wrapper = dict(optimizer=dict(betas=(0.9, 0.999)))
max_epochs = 1600
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], end=max_epochs)]
train_cfg = dict(max_epochs=max_epochs)
