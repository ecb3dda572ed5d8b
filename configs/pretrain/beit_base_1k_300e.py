# BEiT base, pre-trained on ImageNet-1k for 300 epochs: the base of the ablations.
#
#   tools/dist_train.sh configs/pretrain/beit_base_1k_300e.py 8    8 GPUs x 256 images
#
# Published: 83.22 % top-1, 45.70 % mIoU (arXiv 2106.08254, table 5). The ablations compare with a plain ViT, with
# SETR-PUP's decoder: 82.86 % top-1, 44.65 % mIoU (table 4). Use beit_finetune.py and beit_segment.py with
# --cfg-options model.backbone.init_cfg.checkpoint=work_dirs/beit_base_1k_300e/epoch_300.pth
# OpenAI's tokenizer: --cfg-options model.target.tokenizer.init_cfg.checkpoint=PATH/encoder.pkl
_base_ = '../beit_pretrain.py'

max_epochs = 300
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], end=max_epochs)]
train_cfg = dict(max_epochs=max_epochs)
