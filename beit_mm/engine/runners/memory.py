"""Errors about too little memory, with advice that fits the config."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.config import Config
from mmengine.runner import Runner


class OutOfMemory(RuntimeError):
    """Too little memory on the device or for the loader's workers; says what to change."""


def describe_shortage(error: RuntimeError) -> str | None:
    """The first two sentences of torch's error about too little memory; None for other errors."""
    text = str(error)
    if not re.search("out of memory|can't allocate memory", text):
        return None
    return '. '.join(text.splitlines()[0].split('. ')[:2])


@contextmanager
def advise_on_memory(cfg: Config, runner: Runner) -> Iterator[None]:
    """Turn errors about too little memory in a run into OutOfMemory."""
    try:
        yield
    except RuntimeError as error:
        stage = runner.message_hub.runtime_info.get('loop_stage', 'train')
        loader = cfg.get(f'{stage}_dataloader')
        if worker := re.search(r'DataLoader worker \(pid.*?(?:signal: .*?\.|unexpectedly)', str(error)):
            raise OutOfMemory(
                f'{worker[0].rstrip(".")}: the system ends processes when memory runs out; fewer workers need less: '
                f'{stage}_dataloader.num_workers is {loader.get("num_workers", 0)}'
            ) from error
        shortage = describe_shortage(error)
        if shortage is None:
            raise
        advice = 'the model needs more than one such device (docs/scale.md)'
        if options := ' or '.join(_options(cfg, stage)):
            advice = f'try --cfg-options {options}'
        raise OutOfMemory(f'{shortage}; with {stage}_dataloader.batch_size={loader.batch_size}, {advice}') from error


def _options(cfg: Config, stage: str) -> Iterator[str]:
    """Options that need less memory, the cheapest first."""
    batch_size = cfg[f'{stage}_dataloader'].batch_size
    factor = next((number for number in range(2, batch_size + 1) if batch_size % number == 0), 1)
    smaller = f'{stage}_dataloader.batch_size={batch_size // factor}'
    if stage != 'train':
        if factor > 1:
            yield smaller
        if cfg.model.get('test_cfg', {}).get('mode') == 'slide':
            yield 'model.test_cfg.windows_per_batch=1'
        return
    if factor > 1:
        count = cfg.optim_wrapper.get('accumulative_counts', 1) * factor
        longer = f' (with max_iters, schedules and intervals {factor} times as long)'
        yield f'{smaller} optim_wrapper.accumulative_counts={count}{longer if "max_iters" in cfg.train_cfg else ""}'
    if 'backbone' in cfg.model and not cfg.model.backbone.get('with_cp'):
        yield 'model.backbone.with_cp=True'
