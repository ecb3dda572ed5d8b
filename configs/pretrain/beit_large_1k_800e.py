# BEiT large, pre-trained on ImageNet-1k for 800 epochs (arXiv 2106.08254).
#
#   tools/dist_train.sh configs/pretrain/beit_large_1k_800e.py 8    8 GPUs x 256 images
#
# Published: 85.2 % top-1 by classify/beit_large_224_pt1k_to_1k.py, then 86.3 % by
# classify/beit_large_384_ft1k_to_1k.py (arXiv 2106.08254, table 1).
# OpenAI's tokenizer: --cfg-options model.target.tokenizer.init_cfg.checkpoint=PATH/encoder.pkl
_base_ = '../beit_pretrain.py'

model = dict(backbone=dict(embed_dim=1024, depth=24, num_heads=16, layer_scale_init_value=1e-5))

# Table 12 of the paper clips the large model's gradients more than the base's.
optim_wrapper = dict(clip_grad=dict(max_norm=1.0))
