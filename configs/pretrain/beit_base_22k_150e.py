# BEiT base, pre-trained on ImageNet-22k for 150 epochs (BEiT release).
#
#   tools/dist_train.sh configs/pretrain/beit_base_22k_150e.py 8    8 GPUs x 256 images
#
# Published: 83.7 % top-1 by classify/beit_base_224_pt22k_to_1k.py (BEiT release).
# OpenAI's tokenizer: --cfg-options model.target.tokenizer.init_cfg.checkpoint=PATH/encoder.pkl
#
# data/imagenet22k/train holds a folder per class. If data/imagenet22k/meta/train.txt exists, with a
# line `folder/file class` per image, it is read instead of listing 14 M files.
_base_ = '../beit_pretrain.py'

model = dict(data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3))
train_dataloader = dict(dataset=dict(type='ImageNet21k', data_root='data/imagenet22k'))

max_epochs = 150
# 10,000 updates, in epochs of 14,197,122 images.
warmup_epochs = 10000 / (14197122 // 2048)
param_scheduler = [
    dict(_base_.param_scheduler[0], end=warmup_epochs),
    dict(_base_.param_scheduler[1], begin=warmup_epochs, end=max_epochs),
]
train_cfg = dict(max_epochs=max_epochs)
