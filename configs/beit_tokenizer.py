# The visual tokenizer: DALL-E's discrete VAE (arXiv 2102.12092), vocabulary 8192, one token per 8 x 8 pixels.
#
#   tools/dist_train.sh configs/beit_tokenizer.py 8        8 GPUs x 64 images
#
# Schedule of DALL-E's report, from memory: AdamW, 1.2 M updates of batch 512, temperature 1 to 1/16 over 150 k, KL
# weight 0 to 6.6 over 5 k, weights averaged at 0.999. The report trains on its own 250 M images; on ImageNet-1k this is
# our choice, without a published score. The released weights need no training: see beit_pretrain.py.
_base_ = ['_base_/runtime.py', '_base_/datasets/imagenet_tokenizer.py']

model = dict(
    type='beit_mm.DiscreteVAE',
    vocab_size=8192,
    n_hid=256,
    n_init=128,
    blocks_per_group=2,
    data_preprocessor=dict(type='SelfSupDataPreprocessor', mean=[0.0] * 3, std=[255.0] * 3, to_rgb=True,
                           non_blocking=True))

optim_wrapper = dict(
    type='beit_mm.AutocastOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-4, fused=True),
    constructor='beit_mm.LayerDecayOptimWrapperConstructor')
max_iters = 1200000
param_scheduler = [
    dict(type='CosineAnnealingLR', eta_min=1.25e-6, by_epoch=False, begin=0, end=max_iters),
]
custom_hooks = [
    dict(type='beit_mm.AnnealHook', attribute='temperature', start=1.0, end=1 / 16, num_iters=150000),
    # 6.6 belongs to a sum over positions; the loss is a mean over 64 x 3 sub-pixels per position.
    dict(type='beit_mm.AnnealHook', attribute='kl_weight', start=0.0, end=6.6 / 192, num_iters=5000),
    dict(type='EMAHook', ema_type='ExponentialMovingAverage', momentum=0.001),
]

train_cfg = dict(type='beit_mm.IterTrainLoop', max_iters=max_iters, val_interval=20000)
val_cfg = dict()
test_cfg = dict()
val_evaluator = dict(type='beit_mm.TokenizerMetric', vocab_size=8192)
test_evaluator = val_evaluator
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=10000),
    pictures=dict(interval=10000))
log_processor = dict(by_epoch=False)
auto_scale_lr = dict(base_batch_size=512)
