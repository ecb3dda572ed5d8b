"""Texts of the configs that a pre-training writes, in the style of configs/own_data, filled by str.format."""

HEAD = """\
# {title}, written by `beit-mm {command}` for {name}.
#
#   python {train} {file}
#
{comment}
# No published score; all values are our choice.
_base_ = 'beit_mm::own_data/{base}.py'
"""

DATA = """
# Yours: images in one folder or its subfolders.
data_root = {folder.path!r}
img_size, patch_size = {plan.img_size}, {plan.patch_size}  # pixels; the first is a multiple of the second
in_channels, highest = {folder.bands}, {highest}  # bands, and the largest value of their bits
max_iters = {length}

work_dir = {work_dir!r}
view_size = img_size // patch_size * 8  # the tokenizer gives a token for 8 x 8 pixels
load = dict(type='beit_mm.LoadImage', {load})
"""

TOKENIZER = """
model = dict(
    vocab_size={plan.vocab_size}, in_channels=in_channels, whitening_iters=max(1, max_iters // 10),
    data_preprocessor=dict(
        type='beit_mm.ClsDataPreprocessor', mean=[0.0] * in_channels, std=[float(highest)] * in_channels))

random_crop = dict(_base_.random_crop, scale=view_size, crop_ratio_range=(0.2, 1.0))
train_dataloader = dict(
    batch_size={plan.tokenizer_batch},
    num_workers={plan.workers},
    dataset=dict(
        _delete_=True, type='beit_mm.ClassFolders', data_root=data_root, with_label=False{extensions},
        pipeline=[load, random_crop, _base_.flip, _base_.pack]))
val_dataloader = val_cfg = val_evaluator = None
test_dataloader = test_cfg = test_evaluator = None
param_scheduler = [dict(type='CosineAnnealingLR', eta_min=0.02, by_epoch=False, begin=0, end=max_iters)]
"""

PRETRAIN = """
grid = img_size // patch_size
num_masked = round(75 / 196 * grid**2)  # the paper's share
model = dict(
    backbone=dict(
        img_size=img_size, patch_size=patch_size, in_channels=in_channels, {widths},
        drop_path_rate=0.0),
    target=dict(
        tokenizer=dict(
            _delete_=True, type='beit_mm.KMeansTokenizer', vocab_size={plan.vocab_size}, in_channels=in_channels,
            init_cfg=dict(type='Pretrained', checkpoint={checkpoint!r}))),
    recovered=dict(num_masked=num_masked),
    data_preprocessor=dict(
        # Measured, a number for each band{order}.
        mean={mean},
        std={std}))

random_crop = dict(
    _base_.random_crop, scale=img_size, second_scale=view_size, crop_ratio_range=(0.2, 1.0))
jitter = dict(_base_.jitter, saturation={saturation})
mask = [
    dict(type='beit_mm.BlockwiseMaskGenerator', grid=(grid, grid), num_masked=num_masked,
         min_block_size=max(1, round(16 / 196 * grid**2)), min_aspect=0.3),
    dict(type='beit_mm.PackTwoViews')
]
train_dataloader = dict(
    batch_size={plan.batch},
    num_workers={plan.workers},
    sampler=dict(_delete_=True, type='InfiniteSampler', shuffle=True),
    dataset=dict(
        _delete_=True, type='beit_mm.ClassFolders', data_root=data_root, with_label=False{extensions},
        pipeline=[load, jitter, random_crop, *mask]))

# Masked patches differ by their positions alone, which the model knows from these biases: they must grow quickly.
optim_wrapper = dict(
    optimizer=dict(lr={lr}), paramwise_cfg=dict(custom_keys=dict(relative_position_bias_table=dict(lr_mult=10))))
warmup_iters = max(1, max_iters // 20)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-9, by_epoch=False, begin=0, end=warmup_iters),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.01, by_epoch=False, begin=warmup_iters, end=max_iters),
]
auto_scale_lr = dict(base_batch_size={total})
"""

# It ends at the last step: the time that was given is in max_iters.
LENGTH = """
train_cfg = dict(_delete_=True, type='beit_mm.IterTrainLoop', max_iters=max_iters, max_bad_share={bad_share})
log_processor = dict(by_epoch=False)
interval = -(-max_iters // 4)  # rounded up, so that the last one is at the end
default_hooks = dict(
    logger=dict(interval=10, log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=interval, max_keep_ckpts=1),
    pictures=dict(interval=interval))
"""

# Labels are for the score alone: no gradient comes from them.
NEIGHBOURS = """
# The scores linear/top1 and knn/top1: how many labelled images are classified right by the trunk's features, in which
# the others are known.
neighbours = dict({known})
asked = dict({asked})
labelled = dict(batch_size={plan.batch}, num_workers={plan.workers})
labelled_images = dict(
    type='beit_mm.ClassFolders',
    metainfo=dict(classes={classes}){extensions},
    pipeline=[
        dict(load, ignore_empty=True),
        dict(type='beit_mm.ResizeEdge', scale=img_size, edge='short', backend='pillow', interpolation='bicubic'),
        dict(type='CenterCrop', crop_size=img_size),
        dict(type='PackInputs')
    ])
custom_hooks = [
    dict(
        type='beit_mm.KNNHook', by_epoch=False, interval=interval, k={labels.neighbours}, num_train={num_train},
        num_val={num_val},
        train_dataloader=dict(**labelled, dataset=dict(**labelled_images, **neighbours)),
        val_dataloader=dict(**labelled, dataset=dict(**labelled_images, **asked))),
]
"""

FINETUNE = """
# Yours: labelled images, a folder for each class.
classes = {classes}
img_size, patch_size = {plan.img_size}, {plan.patch_size}  # as in pretrain.py
in_channels = {folder.bands}
max_epochs = {length}

work_dir = {work_dir!r}
model = dict(
    backbone=dict(
        img_size=img_size, patch_size=patch_size, in_channels=in_channels, {widths},
        init_cfg={init_cfg}),
    head=dict(num_classes=len(classes), in_channels={embed_dim}),
    train_cfg=dict(_delete_=True),
    data_preprocessor=dict(
        num_classes=len(classes), type='beit_mm.ClsDataPreprocessor',
        mean={mean},
        std={std}))

load = dict(type='beit_mm.LoadImage', {load})
labelled = dict(type='beit_mm.ClassFolders', metainfo=dict(classes=classes){extensions})
train_dataloader = dict(
    batch_size={finetune_batch},
    num_workers={plan.workers},
    dataset=dict(
        _delete_=True,
        **labelled,
        {known},
        pipeline=[
            load, dict(_base_.random_crop, scale=img_size, crop_ratio_range=(0.5, 1.0)), _base_.flip,
            dict(type='beit_mm.PackInputs')
        ]))
val_dataloader = dict(
    batch_size={plan.batch},
    num_workers={plan.workers},
    dataset=dict(
        _delete_=True,
        **labelled,
        {asked},
        pipeline=[
            load, dict(_base_.resize, scale=img_size), dict(_base_.center_crop, crop_size=img_size),
            dict(type='PackInputs')
        ]))
test_dataloader = val_dataloader
val_evaluator = dict(topk=(1, ))
test_evaluator = val_evaluator

# As in configs/demo/finetune.py.
optim_wrapper = dict(
    optimizer=dict(lr={lr}),
    paramwise_cfg=dict(layer_decay_rate=0.9, custom_keys=dict(relative_position_bias_table=dict(lr_mult=10))))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-9, by_epoch=True, begin=0, end=2, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.01, by_epoch=True, begin=2, end=max_epochs,
         convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=max_epochs, val_interval=5)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=5, save_best=None))
auto_scale_lr = dict(base_batch_size={finetune_batch})
"""

EVALUATED = """
# Only the last score counts.
randomness = dict(seed={seed})
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
default_hooks = dict(logger=dict(interval=10), checkpoint=None, pictures=None, report=None, stop=None)
"""
