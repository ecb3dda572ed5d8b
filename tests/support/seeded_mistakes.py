"""Mistakes put into our recipes, and what the early check must say of each.

Every row: recipe, what is changed in it, the key that is reported, and words of the sentence.

64 of the 66 errors are reported at the key that was changed, or at the one that it makes wrong. Two are reported at the
part that gets the wrong input: `out_type='raw'` at the head, three `out_indices` at the neck with its four `rescales`.
"""

TRAIN = 'train_dataloader.dataset'
OPTIMISER = 'optim_wrapper.optimizer'
PRETRAIN, FINETUNE, SEGMENT, TOKENIZER = (f'beit_{job}.py' for job in ('pretrain', 'finetune', 'segment', 'tokenizer'))

# A training would fail, or compute something else than was meant.
ERRORS = [
    # names
    (FINETUNE, {'optim_wraper': dict(type='OptimWrapper')}, 'optim_wraper', 'nothing reads', 'mean optim_wrapper?'),
    (FINETUNE, {'loadfrom': 'a.pth'}, 'loadfrom', 'nothing reads', 'mean load_from?'),
    (FINETUNE, {'randomness.sed': 1}, 'randomness.sed', 'nothing reads', 'mean seed?'),
    (FINETUNE, {'train_dataloader.num_wokers': 2}, 'train_dataloader.num_wokers', 'nothing reads', 'mean num_workers?'),
    (
        FINETUNE,
        {'model.backbone.drop_path_ratee': 0.2},
        'model.backbone.drop_path_ratee',
        'BEiT takes no such argument',
        'mean drop_path_rate?',
    ),
    (FINETUNE, {'model.backbone.num_layers': 12}, 'model.backbone.num_layers', 'mean depth?'),
    (FINETUNE, {'model.head.num_clases': 10}, 'model.head.num_clases', 'LinearClsHead takes no', 'mean num_classes?'),
    (FINETUNE, {'model.train_cfg.augments.0.alphaa': 1.0}, 'model.train_cfg.augments.0.alphaa', 'Mixup', 'mean alpha?'),
    (SEGMENT, {'model.decode_head.chanels': 8}, 'model.decode_head.chanels', 'UperNetHead takes', 'mean channels?'),
    (SEGMENT, {'model.decode_head.input_transform': 'x'}, 'model.decode_head.input_transform', 'remove it'),
    (FINETUNE, {f'{TRAIN}.pipline': []}, f'{TRAIN}.pipline', 'ImageNet takes no such', 'mean pipeline?'),
    (FINETUNE, {f'{TRAIN}.pipeline.1.scal': 224}, f'{TRAIN}.pipeline.1.scal', 'RandomResizedCrop', 'mean scale?'),
    (
        FINETUNE,
        {'default_hooks.checkpoint.max_keep_ckpt': 3},
        'default_hooks.checkpoint.max_keep_ckpt',
        'mean max_keep_ckpts?',
    ),
    (
        FINETUNE,
        {'default_hooks.checkpiont': dict(interval=5)},
        'default_hooks.checkpiont',
        'without a type',
        'mean checkpoint?',
    ),
    (FINETUNE, {'param_scheduler.0.ends': 5}, 'param_scheduler.0.ends', 'LinearLR takes no such', 'mean end?'),
    (FINETUNE, {f'{OPTIMISER}.weight_decy': 0.1}, f'{OPTIMISER}.weight_decy', 'AdamW takes', 'mean weight_decay?'),
    (FINETUNE, {'optim_wrapper.clip_grad': dict(max_nom=3.0)}, 'optim_wrapper.clip_grad.max_nom', 'mean max_norm?'),
    (
        TOKENIZER,
        {'custom_hooks': [dict(type='beit_mm.AnnealHook', attribute='temperature', start=1.0, num_iters=9)]},
        'custom_hooks.0',
        'AnnealHook needs the argument end',
        'add it',
    ),
    # types
    (FINETUNE, {'model.type': 'ImageClasifier'}, 'model.type', "no model 'ImageClasifier'", 'mean ImageClassifier?'),
    (FINETUNE, {'model.backbone.type': 'beit_mm.BEIT'}, 'model.backbone.type', 'mean beit_mm.BEiT?'),
    (FINETUNE, {'model.backbone.type': 'BEiT'}, 'model.backbone.type', 'BEiT of mmpretrain', 'mean beit_mm.BEiT?'),
    (SEGMENT, {'model.type': 'ImageClassifier'}, 'model.type', "default_scope 'mmseg'", 'mean mmpretrain.ImageClassif'),
    (FINETUNE, {'model.head.loss.type': 'LabelSmoothLos'}, 'model.head.loss.type', 'mean LabelSmoothLoss?'),
    (FINETUNE, {'model.backbone.type': 'nopackage.BEiT'}, 'model.backbone.type', 'not installed', 'install nopackage'),
    (FINETUNE, {'default_scope': 'mmseg'}, 'default_scope', "not of 'mmseg'", "set default_scope='mmpretrain'"),
    (FINETUNE, {'optim_wrapper.constructor': 'LayerDecay'}, 'optim_wrapper.constructor', 'may be one'),
    # sizes of the model
    (
        FINETUNE,
        {'model.backbone.img_size': 230},
        'model.backbone.img_size',
        'multiples of the patch size 16',
        '230 x 230',
    ),
    (FINETUNE, {'model.backbone.num_heads': 7}, 'model.backbone.num_heads'),
    (FINETUNE, {'model.head.in_channels': 1024}, 'model.head.in_channels', 'set in_channels=768'),
    (FINETUNE, {'model.backbone.out_type': 'raw'}, 'model.head'),
    (FINETUNE, {'model.data_preprocessor.mean': [0.5, 0.5]}, 'model.data_preprocessor.mean'),
    (FINETUNE, {'model.head.num_classes': 3, 'model.data_preprocessor.num_classes': 3}, 'val_evaluator.topk'),
    (PRETRAIN, {'model.backbone.use_mask_token': False}, 'model.backbone.use_mask_token'),
    (
        PRETRAIN,
        {'model.target': dict(_delete_=True, type='beit_mm.NormalisedPixels', patch_size=8)},
        'model.target.patch_size',
    ),
    (SEGMENT, {'model.backbone.out_indices': [3, 5, 7, 12]}, 'model.backbone.out_indices'),
    (SEGMENT, {'model.backbone.out_indices': [3, 7, 11]}, 'model.neck.rescales'),
    (SEGMENT, {'model.neck.embed_dim': 1024}, 'model.neck.embed_dim', 'set embed_dim=768'),
    (
        SEGMENT,
        {'model.decode_head.in_channels': [1024] * 4},
        'model.decode_head.in_channels',
        'set in_channels=[768, 768, 768, 768]',
    ),
    (SEGMENT, {'model.auxiliary_head.in_index': 4}, 'model.auxiliary_head.in_index'),
    (SEGMENT, {'model.auxiliary_head.num_classes': 19}, 'model.auxiliary_head.num_classes', "decode head's 150"),
    (SEGMENT, {'model.test_cfg.crop_size': (500, 500)}, 'model.test_cfg.crop_size', 'multiples of'),
    (SEGMENT, {'model.test_cfg.stride': (600, 600)}, 'model.test_cfg.stride', 'windows leave gaps'),
    (
        SEGMENT,
        {'model.test_cfg': dict(_delete_=True, mode='slide', crop_size=(512, 512))},
        'model.test_cfg.stride',
        'needs it',
        'add it',
    ),
    (
        TOKENIZER,
        {'val_evaluator.vocab_size': 128},
        'val_evaluator.vocab_size',
        "tokenizer's 8192",
        'set vocab_size=8192',
    ),
    # pipelines
    (FINETUNE, {f'{TRAIN}.pipeline.1.scale': 230}, f'{TRAIN}.pipeline.1.scale', 'got 230 x 230'),
    (TOKENIZER, {f'{TRAIN}.pipeline.1.scale': 100}, f'{TRAIN}.pipeline.1.scale'),
    (
        PRETRAIN,
        {f'{TRAIN}.pipeline.3.num_masked': 197},
        f'{TRAIN}.pipeline.3',
        'num_masked must be 1 to 196',
        'got 197',
    ),
    (PRETRAIN, {f'{TRAIN}.pipeline.3.grid': (16, 16)}, f'{TRAIN}.pipeline.3.grid', 'set grid=(14, 14)'),
    (
        PRETRAIN,
        {f'{TRAIN}.pipeline.2.second_scale': 128},
        f'{TRAIN}.pipeline.2.second_scale',
        'got (16, 16)',
        'set second_scale=112',
    ),
    (PRETRAIN, {f'{TRAIN}.pipeline.3': dict(type='LoadImageFromFile', _delete_=True)}, f'{TRAIN}.pipeline.3'),
    (PRETRAIN, {'model.recovered.num_masked': 98}, 'model.recovered.num_masked', 'set num_masked=75'),
    # the course of the training
    (FINETUNE, {'val_evaluator': None}, 'val_evaluator', 'missing although val_dataloader', 'add it'),
    (FINETUNE, {'param_scheduler.1.eta_min': 1e-6}, 'param_scheduler.1'),
    (SEGMENT, {'param_scheduler.1.by_epoch': True}, 'param_scheduler.1.by_epoch', 'never moves', 'set by_epoch=False'),
    (TOKENIZER, {'custom_hooks.0.attribute': 'temprature'}, 'custom_hooks.0.attribute', 'kl_weight, temperature'),
    (FINETUNE, {'train_dataloader.num_workers': 0}, 'train_dataloader.persistent_workers'),
    (FINETUNE, {'train_dataloader.batch_size': 0}, 'train_dataloader.batch_size'),
    # the optimiser
    (FINETUNE, {'optim_wrapper.dtype': 'bf16'}, 'optim_wrapper.dtype', "must be 'auto', 'bfloat16' or", "got 'bf16'"),
    (
        FINETUNE,
        {'optim_wrapper.type': 'AmpOptimWrapper', 'optim_wrapper.dtype': 'bf16'},
        'optim_wrapper.dtype',
        'one of float16, bfloat16',
        "got 'bf16'",
    ),
    (FINETUNE, {f'{OPTIMISER}.lr': -1.0}, OPTIMISER, 'Invalid learning rate'),
    (FINETUNE, {'optim_wrapper.paramwise_cfg.layer_decay': 0.6}, 'optim_wrapper.paramwise_cfg.layer_decay'),
    (FINETUNE, {'optim_wrapper.paramwise_cfg.layer_decay_rate': 65}, 'optim_wrapper.paramwise_cfg.layer_decay_rate'),
    (
        FINETUNE,
        {'optim_wrapper.constructor': 'DefaultOptimWrapperConstructor'},
        'optim_wrapper.paramwise_cfg.layer_decay_rate',
        'does not read it',
        'LayerDecayOptimWrapperConstructor',
    ),
    (
        FINETUNE,
        {
            'optim_wrapper.constructor': 'DefaultOptimWrapperConstructor',
            'optim_wrapper.paramwise_cfg': dict(_delete_=True, custom_keys={'backbone.cls_tokn': dict(decay_mult=0.0)}),
        },
        'optim_wrapper.paramwise_cfg.custom_keys.backbone.cls_tokn',
        'matches no parameter',
        'mean backbone.cls_token?',
    ),
    # files
    (FINETUNE, {f'{TRAIN}.data_root': 'nowhere'}, TRAIN, 'does not exist: nowhere', 'set data_root'),
    (FINETUNE, {'load_from': 'nowhere.pth'}, 'load_from', 'does not exist: nowhere.pth', 'give another path'),
]

# What may be meant.
WARNINGS = [
    (FINETUNE, {'param_scheduler.0.end': 200}, 'param_scheduler.0.end', 'after the run of 100 epochs', 'smaller end'),
    (FINETUNE, {'param_scheduler.1.end': 90}, 'param_scheduler.1.end', 'ends at 90 and the run at 100', 'set the same'),
    (SEGMENT, {'train_cfg.max_iters': 320000}, 'param_scheduler.1.end', 'the run at 320000', 'set the same end'),
    (FINETUNE, {'param_scheduler.1.begin': 10}, 'param_scheduler.1.begin', 'within param_scheduler.0', 'begin there'),
    (
        FINETUNE,
        {'param_scheduler.1.by_epoch': False, 'param_scheduler.1.convert_to_iter_based': False},
        'param_scheduler.1.by_epoch',
        '100 iterations, not epochs',
        'set by_epoch=True',
    ),
    (SEGMENT, {'default_hooks.checkpoint.by_epoch': True}, 'default_hooks.checkpoint.by_epoch', 'set by_epoch=False'),
    (
        PRETRAIN,
        {'default_hooks.checkpoint.save_best': 'auto'},
        'default_hooks.checkpoint.save_best',
        'never comes without val_dataloader',
        'remove it',
    ),
    (TOKENIZER, {'train_cfg.max_iters': 1000}, 'custom_hooks.0.num_iters', 'after the run of 1000', 'shorten it'),
    (FINETUNE, {f'{TRAIN}.pipeline.1.scale': 256}, 'model.backbone.img_size', '256 x 256', 'set the same size'),
    (
        SEGMENT,
        {'model.data_preprocessor.size': (640, 640)},
        'model.data_preprocessor.size',
        '512 x 512',
        'set the same size',
    ),
    (
        FINETUNE,
        {'train_dataloader.batch_size': 100},
        'train_dataloader.batch_size',
        'no number of processes',
        'choose a divisor of 1024',
    ),
]
