# A tiny BEiT v2 pre-trained on the embedded digits: as ../pretrain.py, but with BEiT v2's tokenizer and its second
# prediction through the class token. Part of `make demo-v2`.
#
#   python tools/train.py configs/demo/v2/pretrain.py    1 process x 64 images
#
# No published score.
_base_ = '../pretrain.py'

work_dir = 'work_dirs/demo_v2/pretrain'
model = dict(
    target=dict(
        tokenizer=dict(
            _delete_=True,
            type='beit_mm.VectorQuantisedTokenizer',
            vocab_size=128, code_dim=16, img_size=96, embed_dim=96, num_heads=4, encoder_depth=4, decoder_depth=1,
            teacher_dim=96,
            init_cfg=dict(type='Pretrained', checkpoint='work_dirs/demo_v2/tokenizer/epoch_8.pth'))),
    bottleneck=dict(early_layers=3, head_layers=2, shared_head=True))

# Both views have 96 x 96 pixels: the tokenizer, too, has one token per 16 x 16.
view_sizes = dict(_base_.view_sizes, second_scale=96, second_interpolation='bicubic')
train_views = [*_base_.train_views[:2], dict(**view_sizes, crop_ratio_range=(0.5, 1.0))]
val_views = [_base_.load, dict(**view_sizes, crop_ratio_range=(1.0, 1.0), aspect_ratio_range=(1.0, 1.0))]
train_dataloader = dict(dataset=dict(pipeline=[*train_views, *_base_.mask]))
val_dataloader = dict(dataset=dict(pipeline=[*val_views, *_base_.mask]))
test_dataloader = val_dataloader
default_hooks = dict(pictures=dict(interval=200))
