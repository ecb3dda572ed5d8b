# BEiT base as a plain ViT, absolute positions and no LayerScale: the trunk of the paper's attention maps.
#
#   tools/dist_train.sh configs/pretrain/beit_base_1k_800e_absolute_positions.py 8    8 GPUs x 256 images
#
# Published: 83.2 % top-1 (arXiv 2106.08254, table 1). Use beit_finetune.py with --cfg-options
# model.backbone.init_cfg.checkpoint=work_dirs/beit_base_1k_800e_absolute_positions/epoch_800.pth
# model.backbone.use_abs_pos_emb=True model.backbone.use_rel_pos_bias=False model.backbone.layer_scale_init_value=0
# OpenAI's tokenizer: --cfg-options model.target.tokenizer.init_cfg.checkpoint=PATH/encoder.pkl
_base_ = '../beit_pretrain.py'

model = dict(
    backbone=dict(use_abs_pos_emb=True, use_shared_rel_pos_bias=False, layer_scale_init_value=0))
