# BEiT tiny, fine-tuned on your own classes from the weights of pretrain.py. See docs/own_data.md.
#
#   python tools/train.py configs/own_data/finetune.py             1 GPU x 128 images
#   python tools/test.py configs/own_data/finetune.py work_dirs/own_data/finetune/epoch_100.pth
#
# No published score; all values that differ from the base are our choice. The rate is the paper's, scaled by the
# square root of the batch.
_base_ = '../beit_finetune.py'

# Yours: train/ and val/ with a folder of images for every class, with these names.
data_root = 'data/own/classify'
classes = ['bird', 'cat', 'dog']
img_size = 224  # a multiple of 16

work_dir = 'work_dirs/own_data/finetune'
model = dict(
    backbone=dict(
        img_size=img_size, embed_dim=192, num_heads=3,
        init_cfg=dict(checkpoint='work_dirs/own_data/pretrain/epoch_300.pth')),
    head=dict(num_classes=len(classes), in_channels=192),
    data_preprocessor=dict(num_classes=len(classes)))

dataset = dict(type='beit_mm.ClassFolders', data_root=data_root, metainfo=dict(classes=classes))
train_dataloader = dict(
    num_workers=8,
    dataset=dict(
        _delete_=True,
        **dataset,
        data_prefix='train',
        pipeline=[
            _base_.load,
            dict(_base_.random_crop, scale=img_size),
            _base_.flip,
            _base_.augment,
            _base_.erase,
            _base_.pack
        ]))
val_dataloader = dict(
    num_workers=8,
    dataset=dict(
        _delete_=True,
        **dataset,
        data_prefix='val',
        pipeline=[
            dict(type='beit_mm.LoadImage'),
            dict(_base_.resize, scale=img_size * 8 // 7),
            dict(_base_.center_crop, crop_size=img_size),
            dict(type='PackInputs')
        ]))
test_dataloader = val_dataloader
val_evaluator = dict(topk=(1, 5) if len(classes) > 5 else (1, ))
test_evaluator = val_evaluator

optim_wrapper = dict(optimizer=dict(lr=1.4e-3))
auto_scale_lr = dict(base_batch_size=128)
