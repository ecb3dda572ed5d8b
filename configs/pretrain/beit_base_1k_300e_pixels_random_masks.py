# Ablation of beit_base_1k_300e.py: predicts pixels, with patches masked independently.
#
#   tools/dist_train.sh configs/pretrain/beit_base_1k_300e_pixels_random_masks.py 8    8 GPUs x 256 images
#
# Published: 80.50 % top-1, 37.09 % mIoU (arXiv 2106.08254, table 4: a plain ViT, with SETR-PUP's decoder). Use
# beit_finetune.py and beit_segment.py with
# --cfg-options model.backbone.init_cfg.checkpoint=work_dirs/beit_base_1k_300e_pixels_random_masks/epoch_300.pth
_base_ = 'beit_base_1k_300e_random_masks.py'

model = dict(target=dict(_delete_=True, type='beit_mm.NormalisedPixels'))
