"""A pre-training that is killed and resumed, beside two that are not: whether all end bit for bit alike."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from photographs import write_photographs

from beit_mm.checkpoint.files import find_newest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / 'tests'))
from support.checkpoints import content, differences  # noqa: E402

EPOCHS, STEPS, INTERVAL = 3, 4, 3  # the first checkpoint is in the middle of an epoch
LAST = f'iter_{EPOCHS * STEPS}.pth'
# Blocks of base, but few: kernels follow from the width. Without pictures and charts, which take longer than the steps.
WHOLE = {'backbone.embed_dim': 768, 'backbone.num_heads': 12, 'backbone.depth': 2, 'target.tokenizer.init_cfg': None}
TINY = {'backbone.embed_dim': 64, 'backbone.num_heads': 1, 'target.tokenizer.n_hid': 8, 'target.tokenizer.n_init': 8}
OPTIONS = {
    'train_cfg.max_epochs': EPOCHS,
    'param_scheduler.0.end': 1,
    'param_scheduler.1.begin': 1,
    'train_dataloader.num_workers': 2,
    'default_hooks.checkpoint.by_epoch': False,
    'default_hooks.checkpoint.interval': INTERVAL,
    'default_hooks.pictures': None,
    'default_hooks.report': None,
}


def compare_runs(is_small: bool) -> Iterator[dict[str, Any]]:
    """As recipes are, where kernels of a GPU may add in any order, and with `randomness.deterministic`.

    All runs are started together; what the two whole ones have in common says what a resumed one can.
    """
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder, batch = Path(name), 2 if is_small else 32
        write_photographs(folder, STEPS * batch)
        options = {f'model.{key}': value for key, value in {**WHOLE, **(TINY if is_small else {})}.items()}
        options |= {'train_dataloader.dataset.data_root': folder, 'train_dataloader.batch_size': batch, **OPTIONS}
        settings = {'as recipes are': options}
        if not is_small:
            settings['randomness.deterministic=True'] = {**options, 'randomness.deterministic': True}
        runs = {
            text: [train(folder / text / which, settings[text]) for which in ('first', 'second', 'killed')]
            for text in settings
        }
        while waiting := [text for text in runs if text not in found]:
            for text in waiting:
                work_dir, killed = folder / text / 'killed', runs[text][2]
                if (work_dir / f'iter_{INTERVAL}.pth').is_file() or killed.poll() is not None:
                    killed.send_signal(signal.SIGKILL)
                    killed.wait()
                    newest = find_newest(work_dir)
                    step = newest and int(newest.stem.removeprefix('iter_'))
                    runs[text][2] = train(work_dir, settings[text], '--resume')
                    found[text] = dict(killed_after=step, of=EPOCHS * STEPS)
            time.sleep(0.01)
        for text, processes in runs.items():
            found[text] |= compare_ends(folder / text, processes)
            yield found


def train(work_dir: Path, options: dict[str, Any], *resume: str) -> subprocess.Popen:
    work_dir.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, 'tools/train.py', 'configs/own_data/pretrain.py', '--work-dir', work_dir, *resume]
    command += ['--cfg-options', *(f'{key}={value}' for key, value in options.items())]
    with open(work_dir / 'output.txt', 'a') as output:
        return subprocess.Popen(
            [str(word) for word in command], cwd=ROOT, stdout=output, stderr=output,
            env={'OMP_NUM_THREADS': '2', **os.environ, 'CUBLAS_WORKSPACE_CONFIG': ':4096:8'})  # yapf: disable


def compare_ends(folder: Path, processes: list[subprocess.Popen]) -> dict[str, Any]:
    """Which of the last checkpoints are equal: weights, averages, the optimizer and the schedules."""
    ends = {}
    for which, process in zip(('first', 'second', 'killed'), processes):
        if process.wait():
            print((folder / which / 'output.txt').read_text()[-5000:])
            return dict(failed=f'the {which} training ended with exit code {process.returncode}')
        ends[which] = content(folder / which / LAST)
    repeated, resumed = (differences(ends['first'], ends[which]) for which in ('second', 'killed'))
    return dict(two_runs_equal=not repeated, resumed_equal=not resumed, differing=resumed[:5])
