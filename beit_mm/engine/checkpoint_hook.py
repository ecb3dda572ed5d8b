"""MMEngine's checkpoint hook with files that a kill, a full disk or a flipped bit cannot lose."""
from collections import deque
from pathlib import Path
from typing import Optional

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook

from ..registry import HOOKS
from .checkpoint_files import BACKEND, remove_partial, write_pointer

FEWEST = 2


@HOOKS.register_module()
class VerifiedCheckpointHook(CheckpointHook):
    """CheckpointHook that writes beside, verifies, renames, moves the pointer, and only then deletes the oldest.

    MMEngine's deletes the oldest first and writes in place. Every file has its SHA-256 beside it in `NAME.sha256`.

    Args:
        max_keep_ckpts: how many checkpoints stay, at least two, as the newest may turn out damaged; -1 for all.
        **kwargs: of MMEngine's CheckpointHook but backend_args and file_client_args; files are local.
    """

    def __init__(self, *args, max_keep_ckpts: int = -1, **kwargs):
        if max_keep_ckpts > 0:
            max_keep_ckpts = max(max_keep_ckpts, FEWEST)
        super().__init__(*args, max_keep_ckpts=max_keep_ckpts, backend_args=dict(backend=BACKEND), **kwargs)

    def before_train(self, runner) -> None:
        super().before_train(runner)
        if is_main_process():
            remove_partial(Path(self.out_dir))
            self._release()

    def _save_checkpoint_with_step(self, runner, step: int, meta: Optional[dict]) -> None:
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        surplus = []
        if self.max_keep_ckpts > 0:
            kept = [other for other in self.keep_ckpt_ids if other != step] + [step]
            surplus = kept[:-self.max_keep_ckpts]
            self.keep_ckpt_ids = deque(kept[-self.max_keep_ckpts:], self.max_keep_ckpts)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir, name, save_optimizer=self.save_optimizer, save_param_scheduler=self.save_param_scheduler,
            meta=meta, by_epoch=self.by_epoch, backend_args=self.backend_args, **self.args)
        if is_main_process():
            write_pointer(Path(runner.work_dir), self.last_ckpt)
            for other in surplus:
                self.file_backend.remove(self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(other)))
            self._release()

    def _save_best_checkpoint(self, runner, metrics: dict) -> None:
        super()._save_best_checkpoint(runner, metrics)
        if is_main_process():
            self._release()  # the best one before, which MMEngine removes before it writes

    def _release(self) -> None:
        best = [getattr(self, 'best_ckpt_path', None), *getattr(self, 'best_ckpt_path_dict', {}).values()]
        self.file_backend.release(keep=[self.last_ckpt, *best])
