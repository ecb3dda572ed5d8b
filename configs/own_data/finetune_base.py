# BEiT base 224, fine-tuned on a few images of your own classes from released weights. See docs/own_data.md.
#
#   python tools/train.py configs/own_data/finetune_base.py        1 GPU x 16 images
#   python tools/test.py configs/own_data/finetune_base.py work_dirs/own_data/finetune_base/epoch_30.pth
#
# No published score; all values that differ from the base are our choice, for 100 to 10,000 images: a rate and a layer
# decay between those of a first and of a further fine-tuning, no Mixup and no CutMix.
_base_ = '../classify/beit_base_224_22k_to_1k.py'

# Yours: train/ and val/ with a folder of images for every class, with these names.
data_root = 'data/own/classify'
classes = ['bird', 'cat', 'dog']
weights = 'checkpoints/beit_base_patch16_224_pt22k_ft22k.pth'

work_dir = 'work_dirs/own_data/finetune_base'
model = dict(
    backbone=dict(init_cfg=dict(checkpoint=weights)),
    head=dict(num_classes=len(classes)),
    data_preprocessor=dict(num_classes=len(classes)))

dataset = dict(type='beit_mm.ClassFolders', data_root=data_root, metainfo=dict(classes=classes))
train_dataloader = dict(
    batch_size=16,
    num_workers=4,
    dataset=dict(_delete_=True, **dataset, data_prefix='train', pipeline=_base_.train_pipeline))
val_dataloader = dict(
    batch_size=16,
    num_workers=4,
    dataset=dict(_delete_=True, **dataset, data_prefix='val', pipeline=_base_.test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(topk=(1, 5) if len(classes) > 5 else (1, ))
test_evaluator = val_evaluator

max_epochs = 30
warmup_epochs = 3
optim_wrapper = dict(optimizer=dict(lr=2e-4, weight_decay=0.05), paramwise_cfg=dict(layer_decay_rate=0.75))
param_scheduler = [
    dict(_base_.param_scheduler[0], end=warmup_epochs),
    dict(_base_.param_scheduler[1], eta_min_ratio=0.01, begin=warmup_epochs, end=max_epochs),
]
train_cfg = dict(max_epochs=max_epochs)
default_hooks = dict(logger=dict(interval=10), pictures=dict(interval=100))
auto_scale_lr = dict(base_batch_size=16)
