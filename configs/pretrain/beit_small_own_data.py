# BEiT small, pre-trained on your own images: all files in data/own/images and its subfolders, without labels.
#
#   tools/dist_train.sh configs/pretrain/beit_small_own_data.py 1    1 GPU x 256 images
#
# No published score: size, batch, rate and epochs are our choice. configs/own_data/ has all stages.
# OpenAI's tokenizer: --cfg-options model.target.tokenizer.init_cfg.checkpoint=PATH/encoder.pkl
_base_ = 'beit_tiny_own_data.py'

model = dict(backbone=dict(embed_dim=384, num_heads=6))
