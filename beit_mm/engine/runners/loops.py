"""MMEngine's training loops with exact resume: in the middle of an epoch, with the same samples, masks and draws."""

from collections.abc import Iterator
from pathlib import Path

import torch
from mmengine.dist import get_rank
from mmengine.hooks import CheckpointHook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop

from beit_mm.checkpoint.files import find_newest
from beit_mm.datasets.seeding import derive_seed, seed_generators
from beit_mm.engine.hooks.logging_hooks import DataCountsHook
from beit_mm.errors import UserError
from beit_mm.registry import LOOPS

from .resuming import ResumePositionHook

STEP = -1  # stands for the epoch in the seed of a step, so that no step shares the seed of a sample


class ResumableLoop:
    """Mixin for a training loop of MMEngine that resumes exactly.

    Every draw follows from numbers that a checkpoint holds: in loading from (seed, epoch, sample), elsewhere, such as
    in dropout, drop path and Mixup, from (seed, iteration, rank). So no state of a random generator is saved.

    Args:
        runner: the runner.
        dataloader: config of the loader, with a sampler whose order follows from an epoch number, or InfiniteSampler.
            With a loader that is built, as tools of the hosts have, the loop is MMEngine's, without exact resume.
        allow_world_size_change: whether the run may resume with another number of processes or images per step.
        max_bad_share: share of the images, 0 to 1, that may be unreadable. They are listed in `bad_images.txt` of the
            work directory and replaced. More are an error.
        max_bad_images: this many may be unreadable even if their share is larger, but at most a quarter of all.
        **kwargs: arguments of MMEngine's loop.

    Raises:
        UserError: If the loader holds no batch.
    """

    def __new__(cls, runner, dataloader, **kwargs):
        if isinstance(dataloader, dict):
            return super().__new__(cls)
        for name in ('allow_world_size_change', 'max_bad_share', 'max_bad_images'):  # ours alone
            kwargs.pop(name, None)
        host = next(base for base in cls.__mro__ if base.__module__.startswith('mmengine.'))
        runner.logger.warning(f'{cls.__name__} got a loader that is built: {host.__name__} runs, without exact resume')
        return host(runner, dataloader, **kwargs)

    def __init__(
        self,
        runner,
        dataloader: dict,
        allow_world_size_change: bool = False,
        max_bad_share: float = 0.001,
        max_bad_images: int = 5,
        **kwargs,
    ):
        from beit_mm.checks import check_runner  # here: the checks import parts of this folder

        check_runner(runner)
        if runner._resume and runner._load_from is None:  # by a tool of the hosts
            saver = next((vars(hook) for hook in runner.hooks if isinstance(hook, CheckpointHook)), {})
            newest = find_newest(Path(runner.work_dir), saver)
            runner._load_from, runner._resume = newest and str(newest), newest is not None
        dataset = dict(
            type='beit_mm.SeededDataset',
            dataset=dataloader['dataset'],
            max_bad_share=max_bad_share,
            max_bad_images=max_bad_images,
            bad_image_list=str(Path(runner.work_dir) / 'bad_images.txt'),
        )
        sampler = dict(type='beit_mm.SeededSampler', sampler=dataloader['sampler'], seed=seed_of_run(runner))
        super().__init__(runner, dict(dataloader, dataset=dataset, sampler=sampler), **kwargs)
        self.sampler = self.dataloader.batch_sampler.sampler
        self.batch_size: int = self.dataloader.batch_sampler.batch_size
        if not len(self.dataloader):
            num_images = len(self.dataloader.dataset)
            what = f'train_dataloader holds no batch: {num_images} images for batches of {self.batch_size}'
            raise UserError(f'{what}; set train_dataloader.batch_size to a smaller number')
        runner.register_hook(ResumePositionHook(self, allow_world_size_change))
        if not any(isinstance(hook, DataCountsHook) for hook in runner.hooks):  # by a tool of the hosts
            runner.register_hook(DataCountsHook())

    def run(self):
        self.sampler.set_seed(seed_of_run(self.runner))  # a checkpoint may have changed it
        try:
            return super().run()
        finally:
            self.end_workers()

    def end_workers(self) -> None:
        """End persistent workers now; the garbage collector may take five seconds for each."""
        self.dataloader._iterator = None

    def run_iter(self, *args) -> None:
        """Seed all generators that a step draws from, on the CPU and on the device of this process, and run it."""
        seed = derive_seed(seed_of_run(self.runner), STEP, self.iter, get_rank())
        seed_generators(seed)
        if torch.cuda.is_initialized():
            torch.cuda.default_generators[torch.cuda.current_device()].manual_seed(seed)
        super().run_iter(*args)


def seed_of_run(runner) -> int:
    """The seed of a run, the same in all processes."""
    differs = runner._randomness_cfg.get('diff_rank_seed', False)
    return runner.seed - (get_rank() if differs else 0)


@LOOPS.register_module()
class EpochTrainLoop(ResumableLoop, EpochBasedTrainLoop):
    """EpochBasedTrainLoop with exact resume, in the middle of an epoch too. Arguments: see ResumableLoop."""

    def run_epoch(self) -> None:
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        start = self.iter - self.epoch * len(self.dataloader)
        if not 0 <= start <= len(self.dataloader):
            raise UserError(
                f'iteration {self.iter} of the checkpoint lies outside epoch {self.epoch + 1} of '
                f'{len(self.dataloader)} steps: was it written with another number of images per step?'
            )
        self.sampler.set_epoch(self.epoch)
        self.sampler.skip(start * self.batch_size)
        for index, batch in enumerate(self.dataloader, start):
            self.run_iter(index, batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1


@LOOPS.register_module()
class IterTrainLoop(ResumableLoop, IterBasedTrainLoop):
    """IterBasedTrainLoop with exact resume. Arguments: see ResumableLoop."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.dataloader_iterator = EndlessBatches(self)

    def end_workers(self) -> None:
        self.dataloader_iterator.skip_iter(0)
        super().end_workers()


class EndlessBatches:
    """Iterates over the loader of a loop without end; a finite sampler begins its next epoch."""

    def __init__(self, loop: ResumableLoop):
        self.loop = loop
        self.skip_iter(0)

    def skip_iter(self, num_iters: int) -> None:
        """Begin anew after that many batches; drops batches that workers have prepared."""
        self._batches = self._iterate(num_iters)

    def __next__(self):
        return next(self._batches)

    def _iterate(self, num_skipped: int) -> Iterator:
        sampler, epoch = self.loop.sampler, 0
        if not sampler.endless:
            epoch, num_skipped = divmod(num_skipped, len(self.loop.dataloader))
        sampler.skip(num_skipped * self.loop.batch_size)
        while True:
            sampler.set_epoch(epoch)
            yield from self.loop.dataloader
            epoch += 1
