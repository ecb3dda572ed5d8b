# Ablation of beit_base_1k_300e.py: predicts the pixels of masked patches instead of visual tokens.
#
#   tools/dist_train.sh configs/pretrain/beit_base_1k_300e_pixels.py 8    8 GPUs x 256 images
#
# Published: 81.04 % top-1, 41.38 % mIoU (arXiv 2106.08254, table 4: a plain ViT, with SETR-PUP's decoder). Use
# beit_finetune.py and beit_segment.py with
# --cfg-options model.backbone.init_cfg.checkpoint=work_dirs/beit_base_1k_300e_pixels/epoch_300.pth
# The paper does not say how it compares pixels: mean squared error of normalised pixels is our choice.
_base_ = 'beit_base_1k_300e.py'

model = dict(target=dict(_delete_=True, type='beit_mm.NormalisedPixels'))
