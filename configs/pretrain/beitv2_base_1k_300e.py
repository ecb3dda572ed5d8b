# BEiT v2 base, pre-trained on ImageNet-1k for 300 epochs (arXiv 2208.06366).
#
#   tools/dist_train.sh configs/pretrain/beitv2_base_1k_300e.py 8    8 GPUs x 256 images
#
# Published: 85.0 % top-1 by classify/beitv2_base_224_pt1k_300e_to_1k.py (BEiT v2 release).
# The released tokenizer: --cfg-options \
#     model.target.tokenizer.init_cfg.checkpoint=PATH/vqkd_encoder_base_decoder_3x768x12_clip-d5036aa7.pth
_base_ = '../beit_pretrain.py'

model = dict(
    backbone=dict(drop_path_rate=0.0),
    target=dict(
        tokenizer=dict(
            _delete_=True,
            type='beit_mm.VectorQuantisedTokenizer',
            init_cfg=dict(type='Pretrained', checkpoint='work_dirs/beitv2_tokenizer_clip/epoch_100.pth'))),
    bottleneck=dict(early_layers=9, head_layers=2, shared_head=True))

# Both views have 224 x 224 pixels: the tokenizer, too, has one token per 16 x 16.
random_crop = dict(
    _base_.random_crop, second_scale=224, second_interpolation='bicubic', crop_ratio_range=(0.2, 1.0))
train_dataloader = dict(dataset=dict(pipeline=[_base_.load, _base_.jitter, random_crop, *_base_.mask]))

optim_wrapper = dict(optimizer=dict(betas=(0.9, 0.98)))
max_epochs = 300
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], end=max_epochs)]
train_cfg = dict(max_epochs=max_epochs)
