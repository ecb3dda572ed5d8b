"""MMEngine's training loops with exact resume: in the middle of an epoch, with the same samples, masks and draws."""

from collections.abc import Iterator
from pathlib import Path

import torch
from mmengine.dist import get_rank
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch.utils.data import DataLoader

from beit_mm.datasets.seeds import derive_seed, seed_generators
from beit_mm.errors import UserError
from beit_mm.registry import LOOPS

from .resume_position import ResumePositionHook

STEP = -1  # stands for the epoch in the seed of a step, so that no step shares the seed of a sample


class ResumableLoop:
    """Mixin for a training loop of MMEngine that resumes exactly.

    Every draw follows from numbers that a checkpoint holds: in loading from (seed, epoch, sample), elsewhere, such as
    in dropout, drop path and Mixup, from (seed, iteration, rank). So no state of a random generator is saved.

    Args:
        runner: the runner.
        dataloader: config of the loader, with any data set, and a sampler whose order follows from an epoch number, or
            MMEngine's InfiniteSampler.
        allow_world_size_change: whether the run may resume with another number of processes or images per step than
            the checkpoint was written with.
        max_bad_share: share of the images that may be unreadable, 0 to 1. They are listed in `bad_images.txt` of the
            work directory and replaced. More are an error.
        **kwargs: arguments of MMEngine's loop.

    Raises:
        UserError: If the loader is built already, or holds no batch.
    """

    def __init__(
        self, runner, dataloader: dict, allow_world_size_change: bool = False, max_bad_share: float = 0.001, **kwargs
    ):
        if not isinstance(dataloader, dict):
            raise UserError(f'{type(self).__name__} needs the config of its loader, got a {type(dataloader).__name__}')
        from beit_mm.checks import check_runner  # here: the checks import parts of this folder

        check_runner(runner)
        dataset = dict(
            type='beit_mm.SeededDataset',
            dataset=dataloader['dataset'],
            max_bad_share=max_bad_share,
            bad_image_list=str(Path(runner.work_dir) / 'bad_images.txt'),
        )
        sampler = dict(type='beit_mm.SeededSampler', sampler=dataloader['sampler'], seed=seed_of_run(runner))
        super().__init__(runner, dict(dataloader, dataset=dataset, sampler=sampler), **kwargs)
        self.batch_size: int = self.dataloader.batch_sampler.batch_size
        if not len(self.dataloader):
            num_images = len(self.dataloader.dataset)
            raise UserError(f'train_dataloader holds no batch: {num_images} images for batches of {self.batch_size}')
        self.sampler = self.dataloader.batch_sampler.sampler
        runner.register_hook(ResumePositionHook(self, allow_world_size_change))

    def run(self):
        self.sampler.set_seed(seed_of_run(self.runner))  # a checkpoint may have changed it
        try:
            return super().run()
        finally:
            self.end_workers()

    def end_workers(self) -> None:
        """End persistent workers now; the garbage collector may take five seconds for each."""
        self.dataloader._iterator = None

    def seed_step(self) -> None:
        """Seed all generators that a step draws from, on the CPU and on the device of this process."""
        seed = derive_seed(seed_of_run(self.runner), STEP, self.iter, get_rank())
        seed_generators(seed)
        if torch.cuda.is_initialized():
            torch.cuda.default_generators[torch.cuda.current_device()].manual_seed(seed)


def seed_of_run(runner) -> int:
    """The seed of a run, the same in all processes."""
    differs = runner._randomness_cfg.get('diff_rank_seed', False)
    return runner.seed - (get_rank() if differs else 0)


@LOOPS.register_module()
class EpochTrainLoop(ResumableLoop, EpochBasedTrainLoop):
    """EpochBasedTrainLoop with exact resume, in the middle of an epoch too. Arguments: ResumableLoop's."""

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

    def run_iter(self, idx: int, data_batch: dict) -> None:
        self.seed_step()
        super().run_iter(idx, data_batch)


@LOOPS.register_module()
class IterTrainLoop(ResumableLoop, IterBasedTrainLoop):
    """IterBasedTrainLoop with exact resume. Arguments: ResumableLoop's."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.dataloader_iterator = EndlessBatches(self.dataloader)

    def end_workers(self) -> None:
        self.dataloader_iterator.reset()
        super().end_workers()

    def run_iter(self, data_batch: dict) -> None:
        self.seed_step()
        super().run_iter(data_batch)


class EndlessBatches:
    """Iterates over a loader without end; a finite sampler begins its next epoch.

    Args:
        dataloader: a loader whose sampler is a SeededSampler.
    """

    def __init__(self, dataloader: DataLoader):
        self.dataloader = dataloader
        self._num_skipped = 0
        self._batches: Iterator | None = None

    def skip_iter(self, num_iters: int) -> None:
        """Skip the first batches; call it before the first batch is taken."""
        self._num_skipped = num_iters

    def reset(self) -> None:
        """Drop batches that workers have prepared."""
        self._batches = None

    def __next__(self):
        self._batches = self._batches or self._iterate()
        return next(self._batches)

    def _iterate(self) -> Iterator:
        sampler, epoch, num_skipped = self.dataloader.batch_sampler.sampler, 0, self._num_skipped
        if not sampler.endless:
            epoch, num_skipped = divmod(num_skipped, len(self.dataloader))
        sampler.skip(num_skipped * self.dataloader.batch_sampler.batch_size)
        while True:
            sampler.set_epoch(epoch)
            yield from self.dataloader
            epoch += 1
