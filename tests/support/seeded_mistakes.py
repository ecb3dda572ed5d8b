"""Mistakes put into our recipes, and what the early check must say of each.

88 of the 91 errors are reported at the key that was changed, or at the one that it makes wrong. Three are reported at
the part that meets them: `default_scope` at the types, `out_type='raw'` at the head, three `out_indices` at the neck
with its four `rescales`.
"""

from functools import partial
from typing import NamedTuple

TRAIN = 'train_dataloader.dataset'
OPTIMISER = 'optim_wrapper.optimizer'
HOSTS_LABELS = [dict(type=name) for name in ('LoadImageFromFile', 'LoadAnnotations', 'PackSegInputs')]
NORMAL = dict(type='Normal', layer='Conv2d', std=0.01)
BINARY = dict(num_classes=2, out_channels=1)
PRETRAIN, FINETUNE, SEGMENT, TOKENIZER = (f'beit_{job}.py' for job in ('pretrain', 'finetune', 'segment', 'tokenizer'))


class Mistake(NamedTuple):
    """Changes of a recipe, the key that must be reported, and words of the sentence."""

    recipe: str
    changes: dict
    key: str
    words: tuple[str, ...]


def mistake(recipe: str, changes: dict, *words: str, at: str = '') -> Mistake:
    """By default the first changed key must be reported."""
    return Mistake(recipe, changes, at or next(iter(changes)), words)


pretrain_v2 = partial(mistake, 'pretrain/beitv2_base_1k_300e.py')
pretrain, finetune, segment, tokenizer = (partial(mistake, name) for name in (PRETRAIN, FINETUNE, SEGMENT, TOKENIZER))

# A training would fail, or compute something else than was meant.
ERRORS = [
    finetune({'optim_wraper': dict(type='OptimWrapper')}, 'nothing reads', 'mean optim_wrapper?'),
    finetune({'loadfrom': 'a.pth'}, 'nothing reads', 'mean load_from?'),
    finetune({'randomness.sed': 1}, 'nothing reads', 'mean seed?'),
    finetune({'train_dataloader.num_wokers': 2}, 'nothing reads', 'mean num_workers?'),
    finetune({'model.backbone.drop_path_ratee': 0.2}, 'BEiT takes no such argument', 'mean drop_path_rate?'),
    finetune({'model.backbone.num_layers': 12}, 'mean depth?'),
    finetune({'model.backbone.init_cfg.checkpiont': 'a.pth'}, 'PretrainedInit takes no such', 'mean checkpoint?'),
    pretrain({'model.target.tokenizer.init_cfg.prefx': 'a.'}, 'PretrainedInit takes no such', 'mean prefix?'),
    finetune({'model.backbone.init_cfg.type': 'Pretraind'}, 'did you mean Pretrained?'),
    finetune({'model.backbone.init_cfg': 'a.pth'}, "must be a dict or a list of dicts, got 'a.pth'"),
    segment(
        {'model.decode_head.init_cfg': [dict(NORMAL, override=dict(NORMAL, name='conv_seg', stdd=1.0))]},
        'NormalInit takes no such',
        'mean std?',
        at='model.decode_head.init_cfg.0.override.stdd',
    ),
    finetune({'model.head': dict(_delete_=True, num_classes=10)}, 'has no type; add one'),
    finetune({'model.head.num_clases': 10}, 'LinearClsHead takes no', 'mean num_classes?'),
    finetune({'model.train_cfg.augments.0.alphaa': 1.0}, 'Mixup', 'mean alpha?'),
    segment({'model.decode_head.chanels': 8}, 'UperNetHead takes', 'mean channels?'),
    segment({'model.decode_head.input_transform': 'x'}, 'remove it'),
    finetune({f'{TRAIN}.pipline': []}, 'ImageNet takes no such', 'mean pipeline?'),
    finetune({f'{TRAIN}.pipeline.1.scal': 224}, 'RandomResizedCrop', 'mean scale?'),
    finetune({'default_hooks.checkpoint.max_keep_ckpt': 3}, 'mean max_keep_ckpts?'),
    finetune({'default_hooks.checkpiont': dict(interval=5)}, 'without a type', 'mean checkpoint?'),
    finetune({'param_scheduler.0.ends': 5}, 'LinearLR takes no such', 'mean end?'),
    finetune({f'{OPTIMISER}.weight_decy': 0.1}, 'AdamW takes', 'mean weight_decay?'),
    finetune({'optim_wrapper.clip_grad': dict(max_nom=3.0)}, 'mean max_norm?', at='optim_wrapper.clip_grad.max_nom'),
    pretrain_v2({'model.bottleneck.early_layer': 9}, 'ClassTokenBottleneck takes no', 'mean early_layers?'),
    pretrain_v2({'model.bottleneck': 3}, 'must be a dict, got 3'),
    segment({'model.decode_head.norm_cfg.epsilon': 1e-6}, 'SyncBatchNorm takes no such', 'eps'),
    mistake(
        'pretrain/beitv2_tokenizer_clip.py',
        {'model.teacher.options': dict(dept=3)},
        'mean depth?',
        at='model.teacher.options.dept',
    ),
    tokenizer(
        {'custom_hooks': [{'type': 'beit_mm.AnnealHook', 'attribute': 'temperature', 'start': 1.0, 'num_iters': 9}]},
        'add it',
        at='custom_hooks.0',
    ),
    finetune({'model.type': 'ImageClasifier'}, "no model 'ImageClasifier'", 'mean ImageClassifier?'),
    finetune({'model.backbone.type': 'beit_mm.BEIT'}, 'mean beit_mm.BEiT?'),
    finetune({'model.backbone.type': 'BEiT'}, 'BEiT of mmpretrain', 'mean beit_mm.BEiT?'),
    segment({'model.type': 'ImageClassifier'}, "default_scope 'mmseg'", 'mean mmpretrain.ImageClassif'),
    finetune({'model.head.loss.type': 'LabelSmoothLos'}, 'mean LabelSmoothLoss?'),
    finetune({'model.backbone.type': 'nopackage.BEiT'}, 'not installed', 'install nopackage'),
    finetune({'default_scope': 'mmseg'}, "default_scope 'mmseg'; did you mean mmpretrain.", at='model.type'),
    finetune({'optim_wrapper.constructor': 'LayerDecay'}, 'may be one'),
    finetune({'model.backbone.img_size': 230}, 'multiples of the patch size 16', '230 x 230'),
    finetune({'model.backbone.num_heads': 7}),
    finetune({'model.head.in_channels': 1024}, 'set in_channels=768'),
    finetune({'model.backbone.out_type': 'raw'}, at='model.head'),
    finetune({'model.data_preprocessor.mean': [0.5, 0.5]}),
    finetune({'model.head.num_classes': 3, 'model.data_preprocessor.num_classes': 3}, at='val_evaluator.topk'),
    pretrain({'model.backbone.use_mask_token': False}),
    pretrain(
        {'model.target': dict(_delete_=True, type='beit_mm.NormalisedPixels', patch_size=8)},
        at='model.target.patch_size',
    ),
    segment({'model.backbone.out_indices': [3, 5, 7, 12]}),
    segment({'model.backbone.out_indices': [3, 7, 11]}, at='model.neck.rescales'),
    segment({'model.neck.embed_dim': 1024}, 'set embed_dim=768'),
    segment({'model.decode_head.in_channels': [1024, 1024, 1024, 1024]}, 'set in_channels=[768, 768, 768, 768]'),
    segment({'model.auxiliary_head.in_index': 4}),
    segment({'model.auxiliary_head.num_classes': 19}, "decode head's 150"),
    segment({'model.decode_head.loss_decode.class_weight': [1.0] * 3}, 'have 150 numbers', 'each class', 'got 3'),
    segment({'model.auxiliary_head.loss_decode.class_weight': [1.0] * 151}, 'have 150 numbers', 'got 151'),
    segment(  # MMSegmentation leaves out what is too many
        {'model.decode_head.loss_decode': [dict(type='TverskyLoss', class_weight=[1.0] * 151)]},
        'have 150 numbers',
        at='model.decode_head.loss_decode.0.class_weight',
    ),
    finetune(  # would be taken for all classes
        {'model.head.loss.class_weight': [2.0]}, 'have 1000 numbers', 'got 1'
    ),
    segment(
        {f'model.{head}_head.{key}': value for head in ('decode', 'auxiliary') for key, value in BINARY.items()},
        'softmax over one output',
        'set use_sigmoid=True',
        at='model.auxiliary_head.loss_decode.use_sigmoid',
    ),
    segment(
        {'model.decode_head.num_classes': 1, 'model.auxiliary_head.num_classes': 1},
        'set num_classes=2',
        'background',
        at='model.decode_head.loss_decode.use_sigmoid',
    ),
    segment({'model.decode_head.ignore_index': 250}, 'must be 250', at='model.auxiliary_head.ignore_index'),
    segment({'model.decode_head.ignore_index': 250}, 'must be 250', at='model.data_preprocessor.seg_pad_val'),
    segment({'model.decode_head.ignore_index': 250}, 'must be 250', at='val_evaluator.ignore_index'),
    segment(
        {'model.decode_head.ignore_index': 250, 'val_dataloader.dataset.pipeline': HOSTS_LABELS},
        'must be 255, which reduce_zero_label makes of 0',
    ),
    segment({'model.test_cfg.crop_size': (500, 500)}, 'multiples of'),
    segment({'model.test_cfg.stride': (600, 600)}, 'windows leave gaps'),
    segment(
        {'model.test_cfg': dict(_delete_=True, mode='slide', crop_size=(512, 512))},
        'add it',
        at='model.test_cfg.stride',
    ),
    tokenizer({'val_evaluator.vocab_size': 128}, "tokenizer's 8192", 'set vocab_size=8192'),
    finetune({f'{TRAIN}.pipeline.1.scale': 230}, 'got 230 x 230'),
    tokenizer({f'{TRAIN}.pipeline.1.scale': 100}),
    pretrain({f'{TRAIN}.pipeline.3.num_masked': 197}, 'got 197', at=f'{TRAIN}.pipeline.3'),
    pretrain({f'{TRAIN}.pipeline.3.grid': (16, 16)}, 'set grid=(14, 14)'),
    pretrain({f'{TRAIN}.pipeline.2.second_scale': 128}, 'got (16, 16)', 'set second_scale=112'),
    pretrain({f'{TRAIN}.pipeline.3': dict(type='LoadImageFromFile', _delete_=True)}),
    pretrain({'model.recovered.num_masked': 98}, 'set num_masked=75'),
    segment({'default_hooks.checkpoint.save_best': 'miou'}, 'gives no miou', 'did you mean mIoU?'),
    finetune({'val_evaluator': None}, 'missing although val_dataloader', 'add it'),
    finetune({'param_scheduler.1.eta_min': 1e-06}, at='param_scheduler.1'),
    segment({'param_scheduler.1.by_epoch': True}, 'never moves', 'set by_epoch=False'),
    tokenizer({'custom_hooks.0.attribute': 'temprature'}, 'kl_weight, temperature'),
    finetune({'train_dataloader.num_workers': 0}, at='train_dataloader.persistent_workers'),
    finetune({'train_dataloader.batch_size': 0}),
    finetune({'optim_wrapper.dtype': 'bf16'}, "must be 'auto', 'bfloat16' or", "got 'bf16'"),
    finetune(
        {'optim_wrapper.type': 'AmpOptimWrapper', 'optim_wrapper.dtype': 'bf16'}, "got 'bf16'", at='optim_wrapper.dtype'
    ),
    finetune({f'{OPTIMISER}.lr': -1.0}, 'Invalid learning rate', at=OPTIMISER),
    finetune({'optim_wrapper.paramwise_cfg.layer_decay': 0.6}),
    finetune({'optim_wrapper.paramwise_cfg.layer_decay_rate': 65}),
    finetune(
        {'optim_wrapper.paramwise_cfg.custom_keys': {'backbone.cls_tokn': dict(lr_mult=0.1)}},
        'mean backbone.cls_token?',
        at='optim_wrapper.paramwise_cfg.custom_keys.backbone.cls_tokn',
    ),
    finetune(
        {'optim_wrapper.constructor': 'DefaultOptimWrapperConstructor'},
        'LayerDecayOptimWrapperConstructor',
        at='optim_wrapper.paramwise_cfg.layer_decay_rate',
    ),
    finetune(
        {
            'optim_wrapper.constructor': 'DefaultOptimWrapperConstructor',
            'optim_wrapper.paramwise_cfg': dict(_delete_=True, custom_keys={'backbone.cls_tokn': dict(decay_mult=0.0)}),
        },
        'mean backbone.cls_token?',
        at='optim_wrapper.paramwise_cfg.custom_keys.backbone.cls_tokn',
    ),
    finetune({f'{TRAIN}.metainfo': dict(classes=['cat', 'dog', 'cat'])}, 'must differ, got cat twice'),
    finetune({f'{TRAIN}.metainfo': dict(classes='cat, dog')}, 'must be a list', "got 'cat, dog'"),
    finetune({f'{TRAIN}.data_root': 'nowhere'}, 'does not exist: nowhere', 'set data_root', at=TRAIN),
    finetune({'load_from': 'nowhere.pth'}, 'does not exist: nowhere.pth', 'give another path'),
]

# Images of four bands, loaded as they are, in all of our structures.
BANDS = {'model.backbone.in_channels': 4}
MEANS = {'model.data_preprocessor.mean': [127.5] * 4, 'model.data_preprocessor.std': [127.5] * 4}
UNCHANGED = {
    f'{loader}_dataloader.dataset.pipeline.0': dict(type='beit_mm.LoadImage', color_type='unchanged')
    for loader in ('train', 'val', 'test')
}
ERRORS += [
    segment({**BANDS, **MEANS}, 'must have 3 numbers', "color_type='unchanged'", at='model.data_preprocessor.mean'),
    segment({**BANDS}, 'images must have 4 channels', "color_type='unchanged'"),
    finetune(  # the hosts' steps
        {f'{TRAIN}.pipeline.3.type': 'RandAugment', **BANDS, **MEANS, **UNCHANGED},
        'takes images of three bands, got 4',
        at=f'{TRAIN}.pipeline.3',
    ),
    finetune(
        {'val_dataloader.dataset.pipeline.1.type': 'ResizeEdge', **BANDS, **MEANS, **UNCHANGED},
        "set backend='cv2'",
        at='val_dataloader.dataset.pipeline.1.backend',
    ),
]

# What may be meant.
WARNINGS = [
    segment({'model.test_cfg.windows_per_btch': 2}, 'nothing reads', 'mean windows_per_batch?'),
    finetune({'param_scheduler.0.end': 200}, 'after the run of 100 epochs', 'smaller end'),
    finetune({'param_scheduler.1.end': 90}, 'ends at 90 and the run at 100', 'set the same'),
    segment({'train_cfg.max_iters': 320000}, 'set the same end', at='param_scheduler.1.end'),
    finetune({'param_scheduler.1.begin': 10}, 'within param_scheduler.0', 'begin there'),
    finetune(
        {'param_scheduler.1.by_epoch': False, 'param_scheduler.1.convert_to_iter_based': False}, 'set by_epoch=True'
    ),
    finetune(
        {'param_scheduler': [dict(type='MultiStepLR', milestones=[60, 120])]},
        '120 is never reached',
        at='param_scheduler.0.milestones',
    ),
    segment({'default_hooks.checkpoint.by_epoch': True}, 'set by_epoch=False'),
    pretrain({'default_hooks.checkpoint.save_best': 'auto'}, 'remove it'),
    tokenizer({'train_cfg.max_iters': 1000}, 'shorten it', at='custom_hooks.0.num_iters'),
    finetune({f'{TRAIN}.pipeline.1.scale': 256}, 'set the same size', at='model.backbone.img_size'),
    segment({'model.data_preprocessor.size': (640, 640)}, '512 x 512', 'set the same size'),
    finetune({'train_dataloader.batch_size': 100}, 'no number of processes', 'choose a divisor of 1024'),
]
