"""Class counts of heads, losses, data sets and metrics, and sizes of images, which one step may not meet."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from mmengine.device import get_device
from mmengine.registry import TRANSFORMS
from mmpretrain.datasets import CustomDataset
from mmseg.datasets import BaseSegDataset
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.losses import FocalLoss
from torch import nn, Tensor

from beit_mm.config.parts import get, walk
from beit_mm.datasets import LoadAnnotations
from beit_mm.datasets.transforms.decoding import read_labels
from beit_mm.datasets.transforms.loading import map_labels
from beit_mm.errors import UserError

from .blame import find_class, nearest
from .problems import Problem, warn
from .samples import Listed

IGNORED = 255  # by default, in MMSegmentation
MAX_LABELS = 100  # label maps of a data set, from its whole length
MAX_LISTED = 100_000  # images whose classes are counted
MAX_NAMED = 10  # classes in a sentence


def check_losses(cfg: dict, model: nn.Module | None) -> Iterator[Problem]:
    """Class weights of losses against the classes of their heads, and losses that need more than one output."""
    for name, head in model.named_modules() if model is not None else ():
        num_classes = getattr(head, 'num_classes', None)
        if not isinstance(num_classes, int):
            continue
        num_outputs = getattr(head, 'out_channels', None) or num_classes
        for part, loss in _losses(head):
            key = nearest(f'model.{name}.{part}'.replace('.loss_module', '.loss'), cfg)
            weights = getattr(loss, 'class_weight', None)
            if weights is not None and len(weights) != num_outputs:
                sentence = f'must have {num_outputs} numbers, one for each class of the head, got {len(weights)}'
                yield Problem(f'{key}.class_weight', sentence)
            elif weights is not None and isinstance(head, BaseDecodeHead) and getattr(loss, 'use_sigmoid', False):
                mend = 'set use_sigmoid=False or leave them out'
                yield Problem(f'{key}.class_weight', f"MMSegmentation's losses fail with them and a sigmoid; {mend}")
            elif weights is not None and isinstance(head, BaseDecodeHead) and getattr(loss, 'avg_non_ignore', False):
                why = "MMSegmentation's loss fails with it and class_weight, which leave out ignored pixels anyway"
                yield Problem(f'{key}.avg_non_ignore', f'{why}; set it to False')
            if runs_on_gpus_only(loss):
                what = "MMSegmentation's FocalLoss fails on CPUs"
                yield Problem(key, f'{what}; take another loss, or a GPU', is_error=get_device() == 'cpu')
            if num_outputs == 1 and getattr(loss, 'use_sigmoid', None) is False and 'Entropy' in type(loss).__name__:
                mend = 'set use_sigmoid=True, or leave out out_channels'
                if num_classes == 1:
                    why = ', for the background too' if isinstance(head, BaseDecodeHead) else ': one class is no choice'
                    mend = f'set num_classes=2 here and in the other parts that count classes{why}'
                yield Problem(f'{key}.use_sigmoid', f'a softmax over one output learns nothing; {mend}')


def runs_on_gpus_only(module: nn.Module) -> bool:
    """Whether a loss of MMSegmentation works on GPUs, but not on CPUs."""
    return isinstance(module, FocalLoss)


def _losses(head: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Names and losses of a head, without those of heads inside."""
    for name, child in head.named_children():
        if not any(isinstance(getattr(part, 'num_classes', None), int) for part in (child, *child.children())):
            yield from ((f'{name}.{part}'.rstrip('.'), loss) for part, loss in child.named_modules())


def check_labels(cfg: dict, model: nn.Module | None, listed: dict[str, Listed], drawn: Any) -> Iterator[Problem]:
    """Class counts and ignored labels of heads, of the data sets that are there, and of metrics; sizes of images, of a
    training sample `drawn`.
    """
    if model is None:
        return
    parts = {f'model.{name}': module for name, module in model.named_modules()}
    heads = {
        key: module.num_classes
        for key, module in parts.items()
        if isinstance(get(cfg, f'{key}.num_classes'), int) and key.rstrip('.0123456789').endswith('head')
    }
    main = next((key for key in ('model.decode_head', 'model.decode_head.0', 'model.head') if key in heads), None)
    for key, count in heads.items():
        if main and key != main and 2 < count < heads[main]:
            sentence = f"must be the decode head's {heads[main]}, got {count}; both see the same labels"
            yield Problem(f'{key}.num_classes', sentence)
    size = getattr(model, 'vocab_size', None)
    for key, node in walk(cfg.get('val_evaluator'), 'val_evaluator'):
        if isinstance(size, int) and node.get('vocab_size', size) != size:
            sentence = f"must be the tokenizer's {size}, got {node['vocab_size']}; set vocab_size={size}"
            yield Problem(f'{key}.vocab_size', sentence, is_error=node['vocab_size'] < size)
    yield from _check_sizes(cfg, drawn)
    if main is None:
        return
    ignored = getattr(parts[main], 'ignore_index', None)
    if ignored is not None:
        yield from _check_ignored(cfg, [key for key in heads if key != main], main, ignored)
    zeros: dict[bool, str] = {}
    classes: dict[str, tuple] = {}
    for loader, images in listed.items():
        key, dataset = f'{loader}.dataset', images.dataset
        if isinstance(dataset, BaseSegDataset):
            zero = bool(dataset.reduce_zero_label)
            if zeros and zero not in zeros:
                other = zeros[not zero]
                why = f'is {zero} here and {not zero} in {other}, so the same label means another class'
                yield Problem(f'{key}.reduce_zero_label', f'{why}; set both to the same')
            zeros.setdefault(zero, key)
            if zero and ignored != IGNORED and not list(_own_loading(cfg, loader)):
                what = f"reduce_zero_label makes of 0 in MMSegmentation's LoadAnnotations of {loader}"
                mend = f'use beit_mm.LoadAnnotations with ignore_index={ignored} there'
                yield Problem(f'{main}.ignore_index', f'must be {IGNORED}, which {what}, got {ignored}; or {mend}')
        if images.is_real:
            yield from _check_values(dataset, key, main, heads[main], ignored)
            if isinstance(dataset, CustomDataset) and not dataset.ann_file:
                classes[key] = tuple(dataset.metainfo.get('classes') or ())
    if len(set(classes.values())) > 1:
        (first, ours), (second, theirs) = list(classes.items())[:2]
        odd = min(set(ours) ^ set(theirs), default='the order')
        why = f'class folders differ from those of {first} ({odd}), so the same label means another class'
        yield Problem(second, f'{why}; add or remove folders, or use beit_mm.ClassFolders')


def _check_ignored(cfg: dict, others: list[str], head: str, ignored: int) -> Iterator[Problem]:
    """What ignores, pads or refuses labels must know the label that the decode head ignores."""
    names = dict.fromkeys(others, 'ignore_index')
    if 'SegDataPreProcessor' in str(get(cfg, 'model.data_preprocessor.type')):
        names['model.data_preprocessor'] = 'seg_pad_val'
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        names.update(dict.fromkeys(_own_loading(cfg, loader), 'ignore_index'))
    for section in ('val_evaluator', 'test_evaluator'):
        for key, node in walk(cfg.get(section), section):
            if str(node.get('type')).endswith('IoUMetric'):
                names[key] = 'ignore_index'
    for key, name in names.items():
        value = (get(cfg, key) or {}).get(name, IGNORED)
        if value != ignored:
            yield Problem(
                f'{key}.{name}', f'must be {ignored}, the ignore_index of {head}, got {value}; set both to the same'
            )


def _own_loading(cfg: dict, loader: str) -> Iterator[str]:
    """Keys of our LoadAnnotations in the pipelines of a loader."""
    for key, node in walk(cfg.get(loader), loader):
        if find_class(node, TRANSFORMS) is LoadAnnotations:
            yield key


def _check_sizes(cfg: dict, sample: Any) -> Iterator[Problem]:
    """Training images against the trunk's training size and the preprocessor's padding."""
    if not isinstance(sample, dict) or not isinstance(sample.get('inputs'), Tensor):
        return
    images = sample['inputs']
    height, width = images.shape[-2:]
    for _, node in walk(cfg['train_dataloader'], ''):  # small images are padded to it later
        if 'gt_sem_seg' in sample.get('data_samples', ()) and isinstance(node.get('crop_size'), (list, tuple)):
            height, width = node['crop_size']
    for key in ('model.backbone.img_size', 'model.data_preprocessor.size'):
        size = get(cfg, key)
        pair = (size, size) if isinstance(size, int) else tuple(size or (height, width))
        if pair != (height, width):
            got = ' x '.join(map(str, pair))
            yield warn(key, f'training images are {height} x {width}, got {got}; set the same size')


def _check_values(dataset, key: str, head: str, num_classes: int, ignored: int | None) -> Iterator[Problem]:
    """The labels of some samples of a data set against the head, and classes without any."""
    indices = sorted({*range(0, len(dataset), max(1, len(dataset) // MAX_LABELS)), len(dataset) - 1})
    counts: Counter = Counter()
    if isinstance(dataset, BaseSegDataset):
        for index in indices:
            info = dataset.get_data_info(index)
            if 'seg_map_path' not in info:
                return
            options = bool(info['reduce_zero_label']), info['label_map'], IGNORED if ignored is None else ignored
            try:
                labels = map_labels(read_labels(info['seg_map_path']), *options)
            except UserError as error:
                yield Problem(key, str(error))
                return
            wrong = labels[(labels >= num_classes) & (labels != ignored)]  # losses leave these out
            if len(wrong):
                yield _outside(key, head, num_classes, int(wrong.max()), info['seg_map_path'], dataset)
                return
            counts.update(np.unique(labels).tolist())
    elif hasattr(dataset, 'get_cat_ids') and num_classes > 1:
        indices = list(range(len(dataset))) if len(dataset) <= MAX_LISTED else indices
        pairs = [(int(label), index) for index in indices for label in np.atleast_1d(dataset.get_cat_ids(index))]
        label, index = max(pairs, default=(0, 0))
        if label >= num_classes:
            yield _outside(key, head, num_classes, label, dataset.get_data_info(index).get('img_path', ''), dataset)
        counts.update(label for label, _ in pairs)
    if len(indices) == len(dataset) or isinstance(dataset, BaseSegDataset) and 8 * num_classes <= len(indices):
        sentence, is_error = describe_missing(dataset, counts, num_classes, ignored, len(indices))
        if sentence:
            yield Problem(key, sentence, is_error)


def describe_missing(
    dataset, counts: Counter, num_classes: int, ignored: int | None, num_samples: int
) -> tuple[str, bool]:
    """Classes without any label, the likely cause and the mend ('' for none); whether it is surely a mistake.

    Args:
        dataset: with the names of the classes.
        counts: samples by label.
        num_classes: of the head.
        ignored: the label of pixels that count nowhere.
        num_samples: of which labels were counted.
    """
    missing = [label for label in range(num_classes) if not counts[label]]
    if not missing or not num_samples:
        return '', False
    known = dict(enumerate(dataset.metainfo.get('classes') or ()))
    names = ', '.join(f'{known.get(label, "class")} ({label})' for label in missing[:MAX_NAMED])
    names += f' and {len(missing) - MAX_NAMED} more' if len(missing) > MAX_NAMED else ''
    is_maps, is_alone = isinstance(dataset, BaseSegDataset), num_classes - len(missing) == 1
    what = f'no label of {names} in {num_samples} {"label maps" if is_maps else "images"}'
    if hidden := _hidden_class(dataset):
        return f'{what}; {hidden}', True
    if is_maps and counts[ignored] and getattr(dataset, 'reduce_zero_label', False):
        mend = 'reduce_zero_label=True leaves out label 0 and lowers the others by one; set it to False if 0 is a class'
    elif is_maps and counts[ignored] and len(missing) == 1:
        stored = f'store {missing[0]} instead of {ignored} in the maps'
        mend = f'{ignored}, which is ignored, occurs: if it is the class, {stored}'
    else:
        left_out = getattr(dataset, 'left_out', None)
        return f'{what}; add some, or remove the class{f"; left out: {left_out}" if left_out else ""}', False
    return f'{what}; {mend}', is_alone


def _hidden_class(dataset) -> str:
    """How to mend a hidden folder that MMPretrain takes for a class; empty if there is none."""
    names = (name for name in dataset.metainfo.get('classes') or () if str(name).startswith('.'))
    name = next(names, None) if isinstance(dataset, CustomDataset) else None
    return f'the hidden folder {name!r} is no class: remove it, or use beit_mm.ClassFolders' if name else ''


def _outside(key: str, head: str, num_classes: int, label: int, path: str, dataset) -> Problem:
    first = 1 if getattr(dataset, 'reduce_zero_label', False) else 0
    mend = f'set num_classes={label + 1} here and in the other parts that count classes, or mend the file'
    if num_classes == 1:
        mend = f'{mend}; the background is a class too'
    elif isinstance(dataset, BaseSegDataset):
        if not first and label == num_classes:
            mend = f'set reduce_zero_label=True if 0 means unlabelled, or {mend}'
        elif label > num_classes:
            mend = f'set ignore_index={label + first} in the heads if it means unlabelled, or {mend}'
    mend = _hidden_class(dataset) or mend
    fits = f'{first} to {num_classes - 1 + first}' + (' with reduce_zero_label=True' if first else '')
    return Problem(
        f'{head}.num_classes', f'{path} has the label {label + first} ({key}), the head takes {fits}; {mend}'
    )
