"""The configs that a pre-training on a folder writes: texts in the style of configs/own_data, filled by str.format."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pprint import pformat

from beit_mm.files import atomic_write
from beit_mm.model_index import MIM

from .folder import Folder, MAX_BAD_SHARE
from .labels import Labels
from .plan import Plan

HEAD = """\
# {title}, written by `beit-mm pretrain` for {folder.path}.
#
#   python {train} {file}
#
{comment}
# No published score; all values are our choice.
_base_ = 'beit_mm::own_data/{name}.py'
"""

DATA = """
# Yours: images in one folder or its subfolders.
data_root = {folder.path!r}
img_size, patch_size = {plan.img_size}, {plan.patch_size}  # pixels; the first is a multiple of the second
in_channels, highest = {folder.bands}, {highest}  # bands, and the largest value of their bits
max_iters = {max_iters}

work_dir = {work_dir!r}
view_size = img_size // patch_size * 8  # the tokenizer gives a token for 8 x 8 pixels
load = dict(type='beit_mm.LoadImage', {load})
"""

TOKENIZER = """
vocab_size = {plan.vocab_size}
model = dict(
    vocab_size=vocab_size, {plan.tokenizer_widths}, in_channels=in_channels, kl_weight=6.6 / 192,
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

warmup_iters = max(1, max_iters // 20)
optim_wrapper = dict(optimizer=dict(lr={tokenizer_lr}))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-9, by_epoch=False, begin=0, end=warmup_iters),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.01, by_epoch=False, begin=warmup_iters, end=max_iters),
]
custom_hooks = [
    dict(type='beit_mm.AnnealHook', attribute='temperature', start=1.0, end=1 / 16, num_iters=max(1, max_iters // 2)),
]
train_cfg = dict(_delete_=True, type='beit_mm.IterTrainLoop', max_iters=max_iters, max_bad_share={bad_share})
interval = max(1, max_iters // 4)
default_hooks = dict(
    logger=dict(interval=10), checkpoint=dict(interval=interval, max_keep_ckpts=1), pictures=dict(interval=interval))
auto_scale_lr = dict(base_batch_size={plan.tokenizer_batch})
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
            vocab_size={plan.vocab_size}, {plan.tokenizer_widths}, in_channels=in_channels,
            init_cfg=dict(checkpoint={checkpoint!r}))),
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

warmup_iters = max(1, max_iters // 20)
# Masked patches differ by their positions alone, which the model knows from these biases: they must grow quickly.
optim_wrapper = dict(
    optimizer=dict(lr={lr}), paramwise_cfg=dict(custom_keys=dict(relative_position_bias_table=dict(lr_mult=10))))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-9, by_epoch=False, begin=0, end=warmup_iters),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.01, by_epoch=False, begin=warmup_iters, end=max_iters),
]
train_cfg = dict(_delete_=True, type='beit_mm.IterTrainLoop', max_iters=max_iters, max_bad_share={bad_share})
interval = max(1, max_iters // 4)
log_processor = dict(by_epoch=False)
default_hooks = dict(
    logger=dict(interval=10, log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=interval, max_keep_ckpts=1),
    pictures=dict(interval=interval))
auto_scale_lr = dict(base_batch_size={plan.batch})
"""

# Labels are for the score alone: no gradient comes from them.
NEIGHBOURS = """
# The score knn/top1: how many labelled images have the class of their nearest neighbours in the trunk's features.
neighbours = dict({labels.sources[0]})
asked = dict({labels.sources[1]})
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
max_epochs = 30

work_dir = {work_dir!r}
model = dict(
    backbone=dict(
        img_size=img_size, patch_size=patch_size, in_channels=in_channels, {widths},
        init_cfg=dict(checkpoint={checkpoint!r})),
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
        {labels.sources[0]},
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
        {labels.sources[1]},
        pipeline=[
            load, dict(_base_.resize, scale=img_size), dict(_base_.center_crop, crop_size=img_size),
            dict(type='PackInputs')
        ]))
test_dataloader = val_dataloader
val_evaluator = dict(topk=(1, ))
test_evaluator = val_evaluator

optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-9, by_epoch=True, begin=0, end=2, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.01, by_epoch=True, begin=2, end=max_epochs,
         convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=max_epochs, val_interval=5)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=5, save_best=None))
auto_scale_lr = dict(base_batch_size={finetune_batch})
"""

TITLES = dict(
    tokenizer='A tokenizer of {plan.vocab_size} visual tokens',
    pretrain='BEiT {plan.trunk}, pre-trained',
    finetune='BEiT {plan.trunk}, fine-tuned on labels',
)
MAX_LABELLED = 2000, 1000  # labelled images of a score, and those that are asked for
NUM_SCORES = 6  # in a training, and of random weights


@dataclass
class Writer:
    """Writes the configs of a plan.

    Args:
        out: the folder for the configs and their work directories.
        folder, labels, plan: what they are for; labels may be None.
        processes: that train.
    """

    out: Path
    folder: Folder
    labels: Labels | None
    plan: Plan
    processes: int = 1

    def file(self, stage: str) -> Path:
        return self.out / f'{stage}.py'

    def checkpoint(self, stage: str, max_iters: int) -> Path:
        """What a training of so many steps writes at its end."""
        return self.out / stage / f'iter_{max_iters}.pth'

    @property
    def steps_of_scores(self) -> int:
        """Steps that take as long as the scores of a pre-training; a forward pass is about a third of a step."""
        if not self.labels:
            return 0
        images = sum(min(pair) for pair in zip(self.labels.counts, MAX_LABELLED))
        return math.ceil(NUM_SCORES * images / self.plan.batch / 3)

    def text(self, stage: str, max_iters: int, start: Path | None = None, comment: Sequence[str] = ()) -> str:
        """The text of a config.

        Args:
            stage: 'tokenizer', 'pretrain' or 'finetune'.
            max_iters: steps.
            start: checkpoint that it starts from.
            comment: lines of its head.
        """
        folder, plan, labels = self.folder, self.plan, self.labels
        width, depth, heads = plan.widths
        values = dict(
            vars(self),
            name=stage,
            title=TITLES[stage].format(plan=plan),
            train=train_tool(),
            file=self.file(stage),
            comment='\n'.join(f'# {line}'.rstrip() for line in comment),
            max_iters=max_iters,
            work_dir=str(self.out / stage),
            checkpoint=str(start),
            highest=2**folder.bits - 1,
            load="imdecode_backend='simplejpeg'"
            + ('' if folder.color_type == 'color' else f', color_type={folder.color_type!r}'),
            extensions=f', extensions={folder.extensions}' if folder.extensions else '',
            bad_share=round(min(MAX_BAD_SHARE, max(0.05, 2 * len(folder.bad) / folder.num_seen)), 3),
            order=' in RGB' if folder.bands == 3 else '',
            widths=f'embed_dim={width}, depth={depth}, num_heads={heads}',
            embed_dim=width,
            mean=_wrap(folder.mean),
            std=_wrap(folder.std),
            saturation=0.4 if folder.bands == 3 else 0.0,
            lr=plan.learning_rate(self.processes),
            tokenizer_lr=3e-3 if plan.trunk == 'mini' else 1e-3,
        )
        if labels:
            for name, number, most in zip(('num_train', 'num_val'), labels.counts, MAX_LABELLED):
                values[name] = min(number, most)
            values['classes'] = pformat(labels.classes, width=100, compact=True)
            values['finetune_batch'] = min(32, max(1, labels.counts[0] // 4))
        parts = dict(
            tokenizer=[DATA, TOKENIZER],
            pretrain=[DATA, PRETRAIN, *([NEIGHBOURS] if labels else [])],
            finetune=[FINETUNE],
        )
        return ''.join(part.format(**values) for part in [HEAD, *parts[stage]])

    def write(self, stage: str, *args) -> None:
        """Write a config, see `text`."""
        with atomic_write(self.file(stage)) as temporary:
            temporary.write_text(self.text(stage, *args), encoding='utf-8')


def _wrap(numbers: list[float]) -> str:
    return textwrap.fill(str(numbers), 100, subsequent_indent=14 * ' ')


def train_tool() -> Path:
    """tools/train.py of the working directory, or of the installed package."""
    here, installed = Path('tools', 'train.py'), MIM / 'tools' / 'train.py'
    return here if here.is_file() and here.samefile(installed) else installed
