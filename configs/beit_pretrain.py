# BEiT base, pre-trained on ImageNet-1k for 800 epochs (arXiv 2106.08254).
#
#   tools/dist_train.sh configs/beit_pretrain.py 8         8 GPUs x 256 images
#
# Published: 83.2 % top-1, 45.6 % mIoU (arXiv 2106.08254, tables 1 and 3: a plain ViT, with SETR-PUP's decoder). Use
# beit_finetune.py and beit_segment.py. With OpenAI's tokenizer:
# --cfg-options model.target.tokenizer.init_cfg.checkpoint=PATH/encoder.pkl
_base_ = ['_base_/runtime.py', '_base_/models/beit_base_pretrain.py', '_base_/datasets/imagenet_pretrain.py']

model = dict(
    target=dict(
        tokenizer=dict(init_cfg=dict(type='Pretrained', checkpoint='work_dirs/beit_tokenizer/iter_1200000.pth'))))

optim_wrapper = dict(
    type='beit_mm.AutocastOptimWrapper',
    optimizer=dict(type='AdamW', lr=1.5e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05, fused=True),
    clip_grad=dict(max_norm=3.0),
    constructor='beit_mm.LayerDecayOptimWrapperConstructor')
max_epochs = 800
warmup_epochs = 10
param_scheduler = [
    # MMEngine refuses to start at 0.
    dict(type='LinearLR', start_factor=1e-9, by_epoch=True, begin=0, end=warmup_epochs, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min_ratio=1e-5 / 1.5e-3, by_epoch=True, begin=warmup_epochs, end=max_epochs,
         convert_to_iter_based=True),
]

train_cfg = dict(type='beit_mm.EpochTrainLoop', max_epochs=max_epochs)
default_hooks = dict(checkpoint=dict(interval=10), pictures=dict(interval=5000))
auto_scale_lr = dict(base_batch_size=2048)
