# BEiT base 224, fine-tuned on CIFAR-100 after intermediate fine-tuning on ImageNet-1k (arXiv 2106.08254, appendix F).
#
#   tools/dist_train.sh configs/classify/beit_base_224_ft1k_to_cifar100.py 8    8 GPUs x 64 images
#
# Published: 91.8 % top-1 (table 11).
_base_ = 'beit_base_224_pt1k_to_cifar100.py'

model = dict(backbone=dict(init_cfg=dict(checkpoint='work_dirs/beit_finetune/epoch_100.pth')))
