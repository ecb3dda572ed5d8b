"""What a run of one step cannot see: schedules, hooks, batch and labels of the whole training."""

import re
from collections.abc import Iterator

import numpy as np
from mmengine.device import get_device
from mmengine.hooks import CheckpointHook
from mmengine.optim import AmpOptimWrapper
from mmengine.registry import HOOKS, OPTIM_WRAPPERS
from mmpretrain.datasets import CustomDataset
from mmseg.datasets import BaseSegDataset
from torch import nn, Tensor

from beit_mm.config.parts import walk

from .blame import find_class, get
from .problems import Problem, suggest
from .samples import Drawn

MAX_LABELS = 200  # of a data set, from its whole length


def warn(key: str, sentence: str) -> Problem:
    return Problem(key, sentence, is_error=False)


# ---- the course of the training


def check_course(cfg: dict, model: nn.Module | None, is_training: bool) -> Iterator[Problem]:
    """Schedules and hooks against the length of the run, and the number format against the device."""
    loop = cfg.get('train_cfg') or {}
    unit = next((unit for unit in ('epochs', 'iters') if isinstance(loop.get(f'max_{unit}'), int)), None)
    if unit is not None:
        length, is_by_epoch = loop[f'max_{unit}'], unit == 'epochs'
        run = f'the run of {length} {"epochs" if is_by_epoch else "iterations"} (train_cfg.max_{unit})'
        yield from _check_schedules(cfg, length, is_by_epoch, run)
        yield from _check_hooks(cfg, model, length, is_by_epoch, run)
    wrapper = cfg.get('optim_wrapper') or {}
    if _is_a(wrapper, OPTIM_WRAPPERS, AmpOptimWrapper) and get_device() == 'cpu':
        dtypes = AmpOptimWrapper.valid_dtypes
        if wrapper.get('dtype') is not None and wrapper['dtype'] not in dtypes:
            yield Problem('optim_wrapper.dtype', f'must be one of {", ".join(dtypes)}, got {wrapper["dtype"]!r}')
        mend = "type='beit_mm.AutocastOptimWrapper' runs on both"
        yield Problem(
            'optim_wrapper.type', f'AmpOptimWrapper needs a GPU and this machine has none; {mend}', is_error=is_training
        )


def on_cpu(wrapper: dict) -> dict:
    """The config of an optimizer wrapper for one step on a CPU."""
    wrapper = dict(wrapper)
    wrapper.pop('accumulative_counts', None)
    if _is_a(wrapper, OPTIM_WRAPPERS, AmpOptimWrapper):
        wrapper['type'] = 'OptimWrapper'
        for name in ('dtype', 'loss_scale', 'use_fsdp'):
            wrapper.pop(name, None)
    return wrapper


def _is_a(node: dict, registry, cls: type) -> bool:
    kind = find_class(node, registry)
    return isinstance(kind, type) and issubclass(kind, cls)


def _check_schedules(cfg: dict, length: int, is_by_epoch: bool, run: str) -> Iterator[Problem]:
    schedules = cfg.get('param_scheduler') or []
    schedules = (
        {f'param_scheduler.{index}': node for index, node in enumerate(schedules)}
        if isinstance(schedules, list)
        else {'param_scheduler': schedules}
    )
    in_unit = {}
    for key, node in schedules.items():
        counts_epochs = node.get('by_epoch', True)
        if counts_epochs == is_by_epoch:
            in_unit[key] = (node, node.get('begin', 0), length if node.get('end') is None else node['end'])
        elif counts_epochs:
            mend = 'set by_epoch=False and count begin and end in iterations'
            yield Problem(f'{key}.by_epoch', f'never moves in a training that counts iterations; {mend}')
        elif node.get('end') == length > 1:
            mend = 'set by_epoch=True if epochs are meant'
            yield warn(f'{key}.by_epoch', f'by_epoch=False ends after {length} iterations, not epochs; {mend}')
    for key, (node, begin, end) in in_unit.items():
        shorten = 'shorten the schedule with the run'
        if end <= begin:
            yield Problem(f'{key}.end', f'must lie after begin={begin}, got {end}; set a larger end')
        elif begin >= length:
            yield warn(f'{key}.begin', f'begins at {begin}, after {run}; {shorten}')
        elif 'Linear' in str(node['type']) and begin == 0 and end > length:
            why = 'so the full rate is never reached'
            yield warn(f'{key}.end', f'the warm-up ends at {end}, after {run}, {why}; set a smaller end')
        late = [step for step in node.get('milestones', ()) if step >= length]
        if late:
            yield warn(f'{key}.milestones', f'{late[0]} is never reached in {run}; {shorten}')
    yield from _check_decays(in_unit, length, run)


def _check_decays(schedules: dict, length: int, run: str) -> Iterator[Problem]:
    """Whether decaying schedules end with the run, and whether one begins in the middle of another."""
    decays = {
        key: (begin, end)
        for key, (node, begin, end) in schedules.items()
        if re.search('Cosine|Poly', str(node['type'])) and begin < length and 'T_max' not in node
    }
    if not decays:
        return
    last, (_, end) = max(decays.items(), key=lambda item: item[1][1])
    if abs(end - length) > 1:  # PolyLR reaches its end one step early
        what = 'stays where it is from there on' if end < length else 'never reaches its end'
        where = f'the schedule ends at {end} and {run.replace("run of", "run at")}'
        yield warn(f'{last}.end', f'{where}, so the rate {what}; set the same end')
    for first, (_, first_begin, first_end) in schedules.items():
        for second, (begin, _) in decays.items():
            if second != first and first_begin < begin < first_end < length:
                where = f'begins at {begin}, within {first}, which ends at {first_end}'
                yield warn(f'{second}.begin', f'{where}; begin there, or at 0 where both shall multiply')


def _check_hooks(cfg: dict, model: nn.Module | None, length: int, is_by_epoch: bool, run: str) -> Iterator[Problem]:
    """Hooks that never act in this run, or want of the model what it does not have."""
    from beit_mm.engine.hooks.anneal_hook import AnnealHook

    for key, node in [*walk(cfg.get('default_hooks'), 'default_hooks'), *walk(cfg.get('custom_hooks'), 'custom_hooks')]:
        if _is_a(node, HOOKS, CheckpointHook):
            if not is_by_epoch and node.get('by_epoch', True):
                what = 'counts epochs in a training that counts iterations, so checkpoints come only at its end'
                yield warn(f'{key}.by_epoch', f'{what}; set by_epoch=False')
            if node.get('save_best') and cfg.get('val_dataloader') is None:
                mend = 'remove it or add val_dataloader, val_cfg and val_evaluator'
                yield warn(f'{key}.save_best', f'never comes without val_dataloader; {mend}')
        if _is_a(node, HOOKS, AnnealHook):
            attribute, steps = node.get('attribute'), node.get('num_iters')
            if model is not None and isinstance(attribute, str) and not hasattr(model, attribute):
                numbers = ', '.join(sorted(name for name, value in vars(model).items() if isinstance(value, float)))
                name = type(model).__name__
                yield Problem(f'{key}.attribute', f'{name} has no {attribute!r}; it may be one of {numbers or "none"}')
            if isinstance(steps, int) and not is_by_epoch and steps > length:
                yield warn(f'{key}.num_iters', f'ends at {steps}, after {run}; shorten it with the run')


# ---- images per update


def check_batch(cfg: dict, num_processes: int | None, text: str) -> Iterator[Problem]:
    """Processes x images x accumulated steps against the batch that the recipe's learning rate belongs to.

    `auto_scale_lr.base_batch_size` is the recipe's processes x images, which is all that MMEngine compares.
    """
    images = (cfg.get('train_dataloader') or {}).get('batch_size')
    scaling, wrapper = cfg.get('auto_scale_lr') or {}, cfg.get('optim_wrapper') or {}
    base, steps = scaling.get('base_batch_size'), wrapper.get('accumulative_counts', 1)
    if (
        not (isinstance(base, int) and isinstance(images, int) and isinstance(steps, int))
        or min(base, images, steps) < 1
    ):
        return
    own_steps = recipe_accumulation(text)
    wanted = base * own_steps
    if num_processes is None:
        if wanted % (images * steps):
            what = f'no number of processes makes the {wanted} images of the recipe (auto_scale_lr.base_batch_size)'
            each = f'of {images} x {steps} accumulated steps each'
            yield warn('train_dataloader.batch_size', f'{what} {each}; choose a divisor of {wanted}')
        return
    now = num_processes * images * steps
    rate = (wrapper.get('optimizer') or {}).get('lr')
    mend = f'optim_wrapper.optimizer.lr={rate * now / wanted:.3g}' if isinstance(rate, float) else 'the rate to match'
    if scaling.get('enable') and steps != own_steps:
        what = f'MMEngine scales the rate by {num_processes} x {images} images over {base}'
        why = f'leaves out the {steps} accumulated steps, so that it is {_times(own_steps / steps)}'
        yield warn('auto_scale_lr.enable', f'{what} and {why}; set enable=False and {mend}')
    elif not scaling.get('enable') and now != wanted:
        what = f'{num_processes} x {images} images x {steps} accumulated steps make {now} per update'
        why = f"the recipe's rate belongs to {wanted}: it is {_times(wanted / now)}"
        yield warn('auto_scale_lr.base_batch_size', f'{what}, {why}; set {mend}')


def _times(factor: float) -> str:
    return f'{factor:.3g} times too high' if factor > 1 else f'{1 / factor:.3g} times too low'


def recipe_accumulation(text: str) -> int:
    """The accumulated steps that a recipe's batch is meant with.

    Args:
        text: Config.text: every file after its own path, bases first. What a later file than the one with
            `auto_scale_lr` accumulates is a user's way to reach that batch.
    """
    files = re.split(r'^/.*\.py$', text or '', flags=re.M)
    last = max((index for index, file in enumerate(files) if re.search(r'^auto_scale_lr\b', file, re.M)), default=0)
    found = re.findall(r'accumulative_counts\s*=\s*(\d+)', ''.join(files[: last + 1]))
    return int(found[-1]) if found else 1


# ---- the optimizer's options


class ReadKeys(dict):
    """A dict that notes which of its keys are read."""

    def __init__(self, items: dict):
        super().__init__(items)
        self.read: set = set()

    def __getitem__(self, name):
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name, default=None):
        self.read.add(name)
        return super().get(name, default)

    def pop(self, name, *default):
        self.read.add(name)
        return super().pop(name, *default)

    def __iter__(self):
        self.read.update(super().keys())
        return super().__iter__()

    def items(self):
        self.read.update(super().keys())
        return super().items()

    def keys(self):
        self.read.update(super().keys())
        return super().keys()

    def __deepcopy__(self, memo):
        return self


def check_options(cfg: dict, model: nn.Module | None, options: ReadKeys) -> Iterator[Problem]:
    """Options of the optimizer's constructor that it does not read, and patterns that match no parameter."""
    names = set(dict.keys(options))
    constructor = cfg['optim_wrapper'].get('constructor', 'DefaultOptimWrapperConstructor')
    for name in sorted(names - options.read):
        known = sorted(options.read - names)
        mend = suggest(name, known, f'it reads {", ".join(known)}; BEiT uses beit_mm.LayerDecayOptimWrapperConstructor')
        yield Problem(f'optim_wrapper.paramwise_cfg.{name}', f'{constructor} does not read it; {mend}')
    patterns = dict.get(options, 'custom_keys')
    if not isinstance(patterns, dict) or model is None:
        return
    parameters = [name if '.' in name else f'.{name}' for name, _ in model.named_parameters()]
    is_ours = any(type(module).__module__.startswith('beit_mm.') for module in model.modules())
    for pattern in patterns:
        if not any(pattern in name for name in parameters):
            words = [[word for word in name.split('.') if word and not word.isdigit()] for name in parameters]
            pieces = {'.'.join(name[at : at + size]) for name in words for size in (1, 2) for at in range(len(name))}
            sentence = f'matches no parameter of the model; {suggest(pattern, pieces, "remove it")}'
            yield Problem(f'optim_wrapper.paramwise_cfg.custom_keys.{pattern}', sentence, is_error=is_ours)


# ---- labels and metrics


def check_labels(cfg: dict, model: nn.Module | None, drawn: dict[str, Drawn]) -> Iterator[Problem]:
    """Class counts of heads, of the data sets that are there, and of metrics."""
    if model is None:
        return
    heads = {
        f'model.{name}': module.num_classes
        for name, module in model.named_modules()
        if isinstance(get(cfg, f'model.{name}.num_classes'), int) and name.rpartition('.')[2].endswith('head')
    }
    main = next((key for key in ('model.decode_head', 'model.head') if key in heads), None)
    for key, count in heads.items():
        if main and key != main and 2 < count < heads[main]:
            sentence = f"must be the decode head's {heads[main]}, got {count}; both see the same labels"
            yield Problem(f'{key}.num_classes', sentence)
    size = getattr(model, 'vocab_size', None)
    for key, node in walk(cfg.get('val_evaluator'), 'val_evaluator'):
        if isinstance(size, int) and node.get('vocab_size', size) != size:
            got = node['vocab_size']
            sentence = f"must be the tokenizer's {size}, got {got}; set vocab_size={size}"
            yield Problem(f'{key}.vocab_size', sentence, is_error=got < size)
    yield from _check_sizes(cfg, drawn.get('train_dataloader'))
    if main is None:
        return
    zeros: dict[bool, str] = {}
    classes: dict[str, tuple] = {}
    for loader, sample in drawn.items():
        key, dataset = f'{loader}.dataset', sample.dataset
        if isinstance(dataset, BaseSegDataset):
            zero = bool(dataset.reduce_zero_label)
            if zeros and zero not in zeros:
                other = zeros[not zero]
                why = f'is {zero} here and {not zero} in {other}, so the same label means another class'
                yield Problem(f'{key}.reduce_zero_label', f'{why}; set both alike')
            zeros.setdefault(zero, key)
        if sample.is_real:
            yield from _check_values(dataset, key, main, heads[main])
            if isinstance(dataset, CustomDataset) and not dataset.ann_file:
                classes[key] = tuple(dataset.metainfo.get('classes') or ())
    if len(set(classes.values())) > 1:
        (first, ours), (second, theirs) = list(classes.items())[:2]
        odd = min(set(ours) ^ set(theirs), default='the order')
        why = f'class folders differ from those of {first} ({odd}), so the same label means another class'
        yield Problem(second, f'{why}; add or remove folders, or use beit_mm.ClassFolders')


def _check_sizes(cfg: dict, drawn: Drawn | None) -> Iterator[Problem]:
    """Training images against the trunk's training size and the preprocessor's padding."""
    if drawn is None or not isinstance(drawn.sample, dict) or not isinstance(drawn.sample.get('inputs'), Tensor):
        return
    images = drawn.sample['inputs']
    height, width = images.shape[-2:]
    for _, node in walk(cfg['train_dataloader'], ''):  # small images are padded to it later
        if 'gt_sem_seg' in drawn.sample.get('data_samples', ()) and isinstance(node.get('crop_size'), (list, tuple)):
            height, width = node['crop_size']
    for key in ('model.backbone.img_size', 'model.data_preprocessor.size'):
        size = get(cfg, key)
        pair = (size, size) if isinstance(size, int) else tuple(size or (height, width))
        if pair != (height, width):
            yield warn(
                key, f'training images are {height} x {width}, got {" x ".join(map(str, pair))}; set the same size'
            )


def _check_values(dataset, key: str, head: str, num_classes: int) -> Iterator[Problem]:
    """The labels of some samples of a data set against the head."""
    indices = sorted({*range(0, len(dataset), max(1, len(dataset) // MAX_LABELS)), len(dataset) - 1})
    if isinstance(dataset, BaseSegDataset):
        for index in indices:
            info = dataset.get_data_info(index)
            labels = read_map(info)
            wrong = labels[labels >= num_classes]
            if len(wrong):
                yield _outside(key, head, num_classes, int(wrong.max()), info['seg_map_path'], dataset)
                return
    elif hasattr(dataset, 'get_cat_ids') and num_classes > 1:
        pairs = [(int(label), index) for index in indices for label in np.atleast_1d(dataset.get_cat_ids(index))]
        label, index = max(pairs, default=(0, 0))
        if label >= num_classes:
            yield _outside(key, head, num_classes, label, dataset.get_data_info(index).get('img_path', ''), dataset)


def read_map(info: dict) -> np.ndarray:
    """The labels in a label map that a loss would see, without those left out."""
    from mmseg.datasets.transforms import LoadAnnotations

    labels = np.unique(LoadAnnotations(imdecode_backend='pillow')(dict(info, seg_fields=[]))['gt_seg_map'])
    return labels[labels != 255]


def _outside(key: str, head: str, num_classes: int, label: int, path: str, dataset) -> Problem:
    first = 1 if getattr(dataset, 'reduce_zero_label', False) else 0
    mend = f'set num_classes={label + 1} here and in the other parts that count classes, or mend the file'
    if isinstance(dataset, BaseSegDataset) and not first and label == num_classes:
        mend = f'set reduce_zero_label=True if 0 means unlabelled, or {mend}'
    fits = f'{first} to {num_classes - 1 + first}' + (' with reduce_zero_label=True' if first else '')
    return Problem(
        f'{head}.num_classes', f'{path} has the label {label + first} ({key}), the head takes {fits}; {mend}'
    )
