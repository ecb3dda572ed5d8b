# The tokenizer of BEiT v2, distilled from CLIP ViT-B/16: 8,192 codes, one per 16 x 16 pixels (arXiv 2208.06366).
#
#   tools/dist_train.sh configs/pretrain/beitv2_tokenizer_clip.py 8    8 GPUs x 64 images
#
# No published score. Published use of the codebook: 97 %; 100 % with a decoder of one block, --cfg-options
# model.decoder_depth=1 (BEiT v2 release). timm downloads the teacher's weights.
_base_ = ['../_base_/runtime.py', '../_base_/datasets/imagenet_tokenizer.py']

model = dict(
    type='beit_mm.VectorQuantisedTokenizer',
    vocab_size=8192,
    code_dim=32,
    encoder_depth=12,
    decoder_depth=3,
    teacher=dict(type='beit_mm.TimmTeacher', name='vit_base_patch16_clip_224.openai', use_head=True),
    teacher_dim=512,
    data_preprocessor=dict(type='SelfSupDataPreprocessor', mean=[0.0] * 3, std=[255.0] * 3, to_rgb=True,
                           non_blocking=True))

random_crop = dict(_base_.random_crop, scale=224, interpolation='bicubic')
train_pipeline = [_base_.load, random_crop, _base_.flip, _base_.pack]
test_pipeline = [
    dict(type='beit_mm.LoadImage'),
    dict(_base_.resize, scale=256, interpolation='bicubic'),
    dict(_base_.center_crop, crop_size=224),
    dict(type='PackInputs')
]
train_dataloader = dict(sampler=dict(type='DefaultSampler'), dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(
    type='beit_mm.AutocastOptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-4, betas=(0.9, 0.99), eps=1e-8, weight_decay=1e-4, fused=True),
    constructor='beit_mm.LayerDecayOptimWrapperConstructor')
max_epochs = 100
warmup_epochs = 10
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6 / 2e-4, by_epoch=True, begin=0, end=warmup_epochs,
         convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=warmup_epochs, end=max_epochs,
         convert_to_iter_based=True),
]

train_cfg = dict(type='beit_mm.EpochTrainLoop', max_epochs=max_epochs, val_interval=5)
val_cfg = dict()
test_cfg = dict()
val_evaluator = dict(type='beit_mm.TokenizerMetric', vocab_size=8192)
test_evaluator = val_evaluator
default_hooks = dict(pictures=dict(interval=10000))
auto_scale_lr = dict(base_batch_size=512)
