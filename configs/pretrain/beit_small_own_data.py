# BEiT small, pre-trained on own images: all files in and below data/own/images, without labels.
#
#   tools/dist_train.sh configs/pretrain/beit_small_own_data.py 1    1 GPU x 256 images
#
# No published score: size, batch, rate and epochs are own choice. configs/own_data/ leads through all stages.
# OpenAI's tokenizer: --cfg-options model.target.tokenizer.init_cfg.checkpoint=PATH/encoder.pkl
_base_ = 'beit_tiny_own_data.py'

model = dict(backbone=dict(embed_dim=384, num_heads=6))
