# BEiT large, pre-trained on ImageNet-1k for 800 epochs; with sharded parameters, gradients and moments (docs/scale.md).
#
#   tools/dist_train.sh configs/pretrain/beit_large_1k_800e_sharded.py 8    8 GPUs x 256 images
#
# Otherwise pretrain/beit_large_1k_800e.py, whose checkpoints it resumes and which resumes its own.
# Published: 85.2 % top-1 (arXiv 2106.08254, table 1).
_base_ = 'beit_large_1k_800e.py'

runner_type = 'FlexibleRunner'
strategy = dict(type='beit_mm.FullyShardedStrategy')
