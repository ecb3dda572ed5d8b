# BEiT large, pre-trained on ImageNet-22k for 150 epochs (BEiT release).
#
#   tools/dist_train.sh configs/pretrain/beit_large_22k_150e.py 8    8 GPUs x 256 images
#
# Published: 86.0 % top-1 by classify/beit_large_224_pt22k_to_1k.py (BEiT release).
# OpenAI's tokenizer: --cfg-options model.target.tokenizer.init_cfg.checkpoint=PATH/encoder.pkl
_base_ = 'beit_base_22k_150e.py'

model = dict(backbone=dict(embed_dim=1024, depth=24, num_heads=16, layer_scale_init_value=1e-5))

# Table 12 of the paper clips the large model's gradients more than the base's.
optim_wrapper = dict(clip_grad=dict(max_norm=1.0))
