"""Checks of the batch: images per update against the recipe's, and batch norm over too few."""

import re
from collections.abc import Iterator

from .arguments import accepted_arguments
from .model_sizes import argument
from .problems import Problem
from .run_plan import RunPlan


def recipe_accumulation(text: str) -> int:
    """The accumulated steps that a recipe's batch is meant with.

    Args:
        text: Config.text: every file after its own path, bases first. What a later file than the one with
            `auto_scale_lr` accumulates is a user's way to reach that batch.
    """
    files = re.split(r'^/.*\.py$', text, flags=re.M)
    last = max((place for place, file in enumerate(files) if re.search(r'^auto_scale_lr\b', file, re.M)), default=0)
    found = re.findall(r'accumulative_counts\s*=\s*(\d+)', ''.join(files[: last + 1]))
    return int(found[-1]) if found else 1


def check_batch(plan: RunPlan) -> Iterator[Problem]:
    """Processes x images x accumulated steps against the batch that the recipe's learning rate belongs to.

    `auto_scale_lr.base_batch_size` is the recipe's processes x images, which is all that MMEngine compares.
    """
    loader = plan.cfg.get('train_dataloader') or {}
    scaling = plan.cfg.get('auto_scale_lr') or {}
    base, images = scaling.get('base_batch_size'), loader.get('batch_size')
    wrapper = plan.cfg.get('optim_wrapper') or {}
    steps = wrapper.get('accumulative_counts', 1)
    if not all(isinstance(number, int) and number > 0 for number in (base, images, steps)):
        return
    wanted = base * plan.own_accumulation
    if plan.num_processes is None:
        if wanted % (images * steps):
            yield Problem(
                'train_dataloader.batch_size',
                f'no number of processes makes the {wanted} images of the '
                f'recipe (auto_scale_lr.base_batch_size) of {images} x {steps} accumulated steps each; '
                f'choose a divisor of {wanted}',
                is_error=False,
            )
        return
    now = plan.num_processes * images * steps
    if scaling.get('enable') and steps != plan.own_accumulation:
        yield Problem(
            'auto_scale_lr.enable',
            f'MMEngine scales the rate by {plan.num_processes} x {images} images '
            f'over {base} and leaves out the {steps} accumulated steps, so that it is '
            f'{_times(plan.own_accumulation / steps)}; set enable=False and '
            f'{_mend(wrapper, now / wanted)[4:]}',
            is_error=False,
        )
    elif not scaling.get('enable') and now != wanted:
        yield Problem(
            'auto_scale_lr.base_batch_size',
            f'{plan.num_processes} x {images} images x {steps} accumulated '
            f"steps make {now} per update, the recipe's rate belongs to {wanted}: it is "
            f'{_times(wanted / now)}; {_mend(wrapper, now / wanted)}',
            is_error=False,
        )


def _times(factor: float) -> str:
    return f'{factor:.3g} times too high' if factor > 1 else f'{1 / factor:.3g} times too low'


def _mend(wrapper: dict, factor: float) -> str:
    rate = (wrapper.get('optimizer') or {}).get('lr')
    return f'set optim_wrapper.optimizer.lr={rate * factor:.3g}' if isinstance(rate, float) else 'set the rate to match'


def check_batch_norm(plan: RunPlan) -> Iterator[Problem]:
    """Batch norm over one image, which fails where a pyramid pools it to one place."""
    images = (plan.cfg.get('train_dataloader') or {}).get('batch_size')
    head = plan.part('model.decode_head')
    if images != 1 or not head or 'pool_scales' not in accepted_arguments(head.cls).names:
        return
    norm = (head.cfg.get('norm_cfg') or {}).get('type')
    if 1 in argument(head, 'pool_scales') and (norm == 'BN' or norm == 'SyncBN' and plan.num_processes == 1):
        yield Problem(
            'train_dataloader.batch_size',
            f'{norm} has one value per channel where {head.key} pools an '
            f'image to one place (pool_scales) and fails; set batch_size=2 or more',
        )
