"""MMEngine's checkpoint hook with files that a kill, a full disk or a flipped bit cannot lose."""

from collections import deque
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook

from beit_mm.checkpoint.files import BACKEND, list_checkpoints, remove_partial, write_pointer
from beit_mm.engine.optimizers.finite_updates import check_finite, names_of_constants
from beit_mm.engine.runners.resume_position import average_gradients
from beit_mm.engine.runners.stopwatch import timed
from beit_mm.engine.runners.unwrapping import unwrap
from beit_mm.registry import HOOKS

FEWEST = 2
STOPS = 'stop_ckpts'  # in MMEngine's message hub, which a checkpoint holds


@HOOKS.register_module()
class VerifiedCheckpointHook(CheckpointHook):
    """CheckpointHook that writes beside, verifies, renames, moves the pointer, and only then deletes the oldest.

    MMEngine's deletes the oldest first and writes in place. A checkpoint that is not finite
    is not written. A best one is written alone, MMEngine's writes a regular one with it.

    Args:
        max_keep_ckpts: how many checkpoints stay, at least two, as the newest may turn out damaged; -1 for all.
        **kwargs: of MMEngine's CheckpointHook but backend_args and file_client_args; files are local.
    """

    def __init__(self, *args, max_keep_ckpts: int = -1, **kwargs):
        if max_keep_ckpts > 0:
            max_keep_ckpts = max(max_keep_ckpts, FEWEST)
        super().__init__(*args, max_keep_ckpts=max_keep_ckpts, backend_args=dict(backend=BACKEND), **kwargs)
        self._saved_at: tuple[int, int] | None = None
        # Epochs and iterations done, for a save at which FlexibleRunner would count them once more.
        self._complete: dict[str, int] = {}

    def before_train(self, runner) -> None:
        super().before_train(runner)
        self._saved_at, self._complete = None, {}  # of an earlier training of this process
        if is_main_process():
            remove_partial(Path(self.out_dir))
            self._release()

    def _save_checkpoint_with_step(self, runner, step: int, meta: dict | None) -> None:
        meta = dict(meta, **self._complete)
        saved_at = meta['epoch'], meta['iter']
        if self._complete and saved_at != self._saved_at:
            return  # MMEngine's, for the best score so far: a run resumed from an older one finds it again
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        surplus = []
        if self.max_keep_ckpts > 0:
            kept = [other for other in self.keep_ckpt_ids if other != step] + [step]
            surplus = kept[: -self.max_keep_ckpts]
            self.keep_ckpt_ids = deque(kept[-self.max_keep_ckpts :], self.max_keep_ckpts)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        average_gradients(runner)
        self._write(runner, name, meta, self.by_epoch)
        self._saved_at = saved_at
        if is_main_process():
            write_pointer(Path(runner.work_dir), self.last_ckpt)
            for other in surplus:
                self.file_backend.remove(self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(other)))
            self._remove_stops(runner)
            self._release()

    def save_stop(self, runner, epoch: int, iteration: int) -> str:
        """Save `iter_N.pth` where a run stops, in all processes; it is deleted once two regular ones are written.

        Args:
            runner: the runner.
            epoch, iteration: how many of each are complete.

        Returns:
            its path, or that of a regular checkpoint which has just been written.
        """
        if self._saved_at == (epoch, iteration):
            return self.last_ckpt
        name = f'iter_{iteration}.pth'
        path = self.file_backend.join_path(self.out_dir, name)
        stops = [*(stop for stop in runner.message_hub.runtime_info.get(STOPS, []) if stop != path), path]
        runner.message_hub.update_info(STOPS, stops[-FEWEST:])
        runner.message_hub.update_info('last_ckpt', path)
        self._complete = dict(epoch=epoch, iter=iteration)
        average_gradients(runner)
        self._write(runner, name, dict(self._complete), by_epoch=False)
        self.last_ckpt, self._saved_at = path, (epoch, iteration)
        if is_main_process():
            write_pointer(Path(runner.work_dir), path)
            for stop in stops[:-FEWEST]:
                self.file_backend.remove(stop)
            self._release()
        return path

    def _write(self, runner, name: str, meta: dict, by_epoch: bool) -> None:
        with timed(runner, 'checkpoints'):
            runner.save_checkpoint(
                self.out_dir,
                name,
                save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler,
                meta=meta,
                by_epoch=by_epoch,
                backend_args=self.backend_args,
                **self.args,
            )

    def _remove_stops(self, runner) -> None:
        stops = runner.message_hub.runtime_info.get(STOPS, [])
        regular = set(list_checkpoints(Path(self.out_dir), self.filename_tmpl).values()) - set(map(Path, stops))
        if stops and len(regular) >= FEWEST:
            for stop in stops:
                self.file_backend.remove(stop)
            runner.message_hub.update_info(STOPS, [])

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Raises NotFinite if weights or the optimiser's state are not finite; the hook stands after all others."""
        checkpoint['meta'].update(self._complete)
        check_finite(checkpoint, names_of_constants(unwrap(runner.model)))

    def _save_best_checkpoint(self, runner, metrics: dict) -> None:
        if self.save_best is None:  # nor is there anything to write with where a runner validates without a training
            return
        self._complete = dict(epoch=runner.epoch, iter=runner.iter)
        with timed(runner, 'checkpoints'):
            super()._save_best_checkpoint(runner, metrics)
        self._complete = {}
        if is_main_process():
            self._release()  # the best one before, which MMEngine removes before it writes

    def _release(self) -> None:
        best = [getattr(self, 'best_ckpt_path', None), *getattr(self, 'best_ckpt_path_dict', {}).values()]
        self.file_backend.release(keep=[self.last_ckpt, *best])
