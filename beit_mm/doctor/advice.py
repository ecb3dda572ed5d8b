"""What to do: the settings of machine.py with their reasons, and a forecast of the run."""

import math
import os
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from beit_mm.checks.course import recipe_accumulation
from beit_mm.checks.problems import Problem, warn
from beit_mm.config.parts import innermost_dataset
from beit_mm.files import atomic_write

from .steps import SMALLER
from .tuning import MEMORY_SHARE, MIN_GAIN, Size

RESERVE = 1.5  # workers over those that keep the device busy, for images that take longer and cores that are shared
# Training images of published data sets, by where the recipes look for them.
IMAGES_OF = {'data/imagenet': 1_281_167, 'data/imagenet22k': 14_197_087, 'data/cifar100': 50_000}
Setting = tuple[Any, str]  # a value and its reason


class Batch(NamedTuple):
    """Images in a step of one device, and the steps that are accumulated for the recipe's batch."""

    images: int
    steps: int
    problem: Problem | None = None


def fit_memory(sizes: list[Size]) -> tuple[float, float]:
    """Bytes of a step without images, and of each image, from measured sizes; of one size, all are the images'."""
    known = [size for size in sizes if size.memory is not None]
    if not known:
        return 0.0, 0.0
    first, last = known[0], known[-1]
    if first is last or last.memory <= first.memory:
        return 0.0, last.memory / last.images
    slope = (last.memory - first.memory) / (last.images - first.images)
    return max(first.memory - slope * first.images, 0.0), slope


def recipe_batch(cfg: Config, devices: int) -> int:
    """Images per update that the config's learning rate belongs to; its own on these devices if it names none."""
    base = (cfg.get('auto_scale_lr') or {}).get('base_batch_size')
    if base:
        return base * recipe_accumulation(cfg.text)
    return devices * math.prod(settings_of(cfg))


def settings_of(cfg: Config) -> tuple[int, int]:
    """Images in a step, and accumulated steps."""
    return cfg.train_dataloader.get('batch_size', 1), cfg.optim_wrapper.get('accumulative_counts', 1)


def choose_batch(
    cfg: Config, devices: int, sizes: list[Size], free: float, state_bytes: int, is_whole: bool = True
) -> Batch:
    """The images in a step, of those that fit into memory and make the recipe's batch in a whole number of steps.

    No more than the config has, unless more were measured and are faster.

    Args:
        cfg: the config, with its own `accumulative_counts`.
        devices: that train.
        sizes: measured steps.
        free: bytes of the device that a training may take.
        state_bytes: of weights, gradients and averages.
        is_whole: whether the steps were of whole images; what cut ones or one step tell of memory is too much.
    """
    images, steps = settings_of(cfg)
    total = recipe_batch(cfg, devices)
    share, rest = divmod(total, devices)
    if rest:
        what = f"{devices} devices do not divide the recipe's {total} images per update"
        return Batch(images, steps, Problem('batch', f'{what}; train on a number of devices that does'))
    constant, slope = fit_memory(sizes)
    room, fewest = MEMORY_SHARE * free - state_bytes - constant, sizes[0].images
    fitting = [n for n in range(fewest, share + 1) if share % n == 0 and n * slope <= room]
    best = max((n for n in fitting if n <= max(images, fewest)), default=None)
    if best is None:
        needed = (state_bytes + constant + fewest * slope) / 2**30
        what = f'a step of {fewest} images takes {needed:.1f} GiB, {free / 2**30:.1f} GiB are free'
        mend = f'set model.backbone.with_cp=True, {SMALLER}'
        if is_whole and len(sizes) > 1:
            return Batch(images, steps, Problem('memory', f'{what}; {mend}'))
        return Batch(images, steps, warn('memory', f'by an estimate {what}; if it fails, {mend}'))
    rates = {size.images: size.images / size.seconds for size in sizes}
    faster = [n for n in fitting if n > best and rates.get(n, 0.0) >= MIN_GAIN * rates.get(best, math.inf)]
    best = max(faster, key=rates.__getitem__, default=best)
    return Batch(best, share // best)


def choose_workers(rate: float, per_core: float, cores: int, devices: int) -> tuple[int, Problem | None]:
    """Loader workers of one process, and a problem if all cores together are too slow for the devices.

    Args:
        rate: images per second that one device takes.
        per_core: images per second that one core loads.
        cores: of the machine.
    """
    most = max(cores // devices, 1)
    needed = math.ceil(RESERVE * rate / per_core)
    problem = None
    if rate > per_core * cores / devices:
        what = f'{cores} cores load {per_core * cores:.0f} images/s, {devices} device(s) take {rate * devices:.0f}'
        mend = 'use more cores, smaller files (docs/data.md), or fewer devices'
        problem = warn('loading', f'{what}: the loader starves the device; {mend}')
    return min(needed, most), problem


def count_images(cfg: Config, batch: int) -> int | None:
    """Images that the whole training takes; None if the size of the data set is not known."""
    loop = cfg.get('train_cfg') or {}
    if loop.get('max_iters'):
        return loop['max_iters'] * batch
    images = IMAGES_OF.get(str((innermost_dataset(cfg.train_dataloader) or {}).get('data_root')).rstrip('/'))
    return images * loop['max_epochs'] if images and loop.get('max_epochs') else None


def render(settings: dict[str, Setting], indent: str = '') -> list[str]:
    """Lines of a config with settings by dotted keys, each with its reason."""
    lines, sign, end = [], *(('=', ',') if indent else (' = ', ''))
    for name, group in groupby(sorted(settings.items()), key=lambda item: item[0].partition('.')[0]):
        inner = {key.partition('.')[2]: setting for key, setting in group}
        if '' in inner:
            value, reason = inner['']
            lines.append(f'{indent}{name}{sign}{value!r}{end}' + (f'  # {reason}' if reason else ''))
        else:
            lines += [f'{indent}{name}{sign}dict(', *render(inner, f'{indent}    '), f'{indent}){end}']
    return lines


def write_machine(
    path: Path, config: str, settings: dict[str, Setting], machine: dict[str, str], notes: list[str]
) -> None:
    """Write a config that inherits another one and changes what is faster here.

    Args:
        path: the new file; one that is there is replaced.
        config: the file to inherit.
        settings: values and reasons by dotted keys.
        machine: see describe_machine; a run on another one is refused.
        notes: lines of the comment at the top.
    """
    hook = 'default_hooks.machine'
    record = {f'{hook}.type': ('beit_mm.MachineHook', ''), f'{hook}.machine': (machine, 'a run elsewhere is refused')}
    base = os.path.relpath(Path(config).resolve(), path.resolve().parent)
    lines = [*(f'# {note}'.rstrip() for note in notes), f'_base_ = {base!r}\n', *render({**settings, **record})]
    with atomic_write(path) as temporary:
        temporary.write_text('\n'.join(lines) + '\n')
