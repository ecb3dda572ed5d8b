# BEiT large, pre-trained on ImageNet-1k for 300 epochs.
#
#   tools/dist_train.sh configs/pretrain/beit_large_1k_300e.py 8    8 GPUs x 256 images
#
# No published score.
# OpenAI's tokenizer: --cfg-options model.target.tokenizer.init_cfg.checkpoint=PATH/encoder.pkl
_base_ = 'beit_base_1k_300e.py'

model = dict(backbone=dict(embed_dim=1024, depth=24, num_heads=16, layer_scale_init_value=1e-5))

# Table 12 of the paper clips the large model's gradients more than the base's.
optim_wrapper = dict(clip_grad=dict(max_norm=1.0))
