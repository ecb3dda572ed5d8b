# BEiT v2 large, pre-trained on ImageNet-1k for 300 epochs (arXiv 2208.06366).
#
#   tools/dist_train.sh configs/pretrain/beitv2_large_1k_300e.py 8    8 GPUs x 256 images
#
# Published: 86.6 % top-1 by classify/beitv2_large_224_pt1k_300e_to_1k.py (BEiT v2 release).
# The released tokenizer: see beitv2_base_1k_300e.py.
_base_ = 'beitv2_base_1k_300e.py'

model = dict(
    backbone=dict(embed_dim=1024, depth=24, num_heads=16, layer_scale_init_value=1e-5),
    bottleneck=dict(early_layers=21))
