# Ablation of beit_base_1k_300e.py: predicts the visual tokens of all patches, masked or not.
#
#   tools/dist_train.sh configs/pretrain/beit_base_1k_300e_all_tokens.py 8    8 GPUs x 256 images
#
# Published: 82.59 % top-1, 40.93 % mIoU (arXiv 2106.08254, table 4: a plain ViT, with SETR-PUP's decoder). Use
# beit_finetune.py and beit_segment.py with
# --cfg-options model.backbone.init_cfg.checkpoint=work_dirs/beit_base_1k_300e_all_tokens/epoch_300.pth
# OpenAI's tokenizer: --cfg-options model.target.tokenizer.init_cfg.checkpoint=PATH/encoder.pkl
_base_ = 'beit_base_1k_300e.py'

model = dict(recovered=dict(_delete_=True, type='beit_mm.AllPatches'))
