# BEiT v2's tokenizer on the embedded digits: 128 codes, one per 16 x 16 pixels, distilled from the demonstration's own
# fine-tuned BEiT. Part of `make demo-v2`; needs the weights of `make demo`.
#
#   python tools/train.py configs/demo/v2/tokenizer.py    1 process x 64 images
#
# No published score. The teacher was fine-tuned with labels, so the codes carry what it knows of the classes. From the
# pre-trained model, which never saw a label: --cfg-options \
#     model.teacher.trunk.init_cfg.checkpoint=work_dirs/demo/pretrain/epoch_20.pth
_base_ = '../../pretrain/beitv2_tokenizer_clip.py'

work_dir = 'work_dirs/demo_v2/tokenizer'
vocab_size = 128
model = dict(
    vocab_size=vocab_size, code_dim=16, img_size=96, embed_dim=96, num_heads=4, encoder_depth=4, decoder_depth=1,
    teacher=dict(
        _delete_=True,
        type='beit_mm.BEiTTeacher',
        trunk=dict(
            type='beit_mm.BEiT', img_size=96, embed_dim=96, depth=4, num_heads=4, out_type='featmap',
            init_cfg=dict(type='Pretrained', checkpoint='work_dirs/demo/finetune/epoch_9.pth', prefix='backbone.'))),
    teacher_dim=96)

classes = [f'digit_{digit}' for digit in range(10)]
dataset = dict(data_root='data/digits/imagenet', metainfo=dict(classes=classes))
train_dataloader = dict(
    num_workers=1,
    dataset=dict(
        **dataset,
        pipeline=[
            dict(type='beit_mm.LoadImage', imdecode_backend='simplejpeg'),
            # No flip: a mirrored digit is another symbol.
            dict(type='beit_mm.RandomResizedCrop', scale=96, crop_ratio_range=(0.5, 1.0), resize_backend='torch',
                 interpolation='bicubic'),
            dict(type='beit_mm.PackInputs')
        ]))
val_dataloader = dict(
    num_workers=1,
    dataset=dict(**dataset, pipeline=[dict(type='beit_mm.LoadImage'), dict(type='PackInputs')]))
test_dataloader = val_dataloader

max_epochs = 8
warmup_epochs = 1
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=True, begin=0, end=warmup_epochs, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=warmup_epochs, end=max_epochs,
         convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
val_evaluator = dict(vocab_size=vocab_size)
test_evaluator = val_evaluator
default_hooks = dict(
    logger=dict(interval=10), checkpoint=dict(interval=2, max_keep_ckpts=1), pictures=dict(interval=100, num_images=4))
auto_scale_lr = dict(base_batch_size=64)
