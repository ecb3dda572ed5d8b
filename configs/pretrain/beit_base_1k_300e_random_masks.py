# Ablation of beit_base_1k_300e.py: patches masked independently instead of in blocks.
#
#   tools/dist_train.sh configs/pretrain/beit_base_1k_300e_random_masks.py 8    8 GPUs x 256 images
#
# Published: 82.77 % top-1, 42.93 % mIoU (arXiv 2106.08254, table 4: a plain ViT, with SETR-PUP's decoder). Use
# beit_finetune.py and beit_segment.py with
# --cfg-options model.backbone.init_cfg.checkpoint=work_dirs/beit_base_1k_300e_random_masks/epoch_300.pth
# OpenAI's tokenizer: --cfg-options model.target.tokenizer.init_cfg.checkpoint=PATH/encoder.pkl
_base_ = 'beit_base_1k_300e.py'

mask = [
    dict(type='beit_mm.RandomMaskGenerator', grid=(14, 14), num_masked=75),
    dict(type='beit_mm.PackTwoViews')
]
train_pipeline = [_base_.load, _base_.jitter, _base_.random_crop, *mask]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
