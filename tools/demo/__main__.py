"""The demonstration: the whole road on the embedded digits, then a table of aims and figures, and pictures."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import mmengine
import numpy as np
from make_digits import write_classification, write_segmentation
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmengine.runner import load_checkpoint
from PIL import Image

from beit_mm.registry import MODELS
from beit_mm.visualization import draw_reconstructions, reconstruct_batch, segmentation_panel

ROOT = Path('work_dirs/demo')
DATA = Path('data/digits')
PREDICTIONS = ROOT / 'segment' / 'predictions'
STARTS = dict(pretrain=['tokenizer'], finetune=['pretrain'], segment=['finetune'])  # what a stage starts from
FROM_RANDOM = ['--cfg-options', 'model.backbone.init_cfg=None']
Row = tuple[str, str, str, str]  # what, aim, figure, verdict


def main() -> None:
    """Run what is not there yet, and write table.md and the pictures into work_dirs/demo."""
    start = time.time()
    ROOT.mkdir(parents=True, exist_ok=True)
    write_classification(DATA / 'imagenet')
    write_segmentation(DATA / 'ade20k')
    _train(tokenizer='tokenizer')
    _train(pretrain='pretrain')
    _train(finetune='finetune', finetune_from_random='finetune')
    _train(segment='segment')
    rows = _score_rows()
    rows.append(('time for what was run, minutes', 'at most 20', *_verdict((time.time() - start) / 60, 20, below=True)))
    _draw_reconstructions(ROOT / 'reconstruction.png')
    _draw_scenes(ROOT / 'segmentation.png')
    table = _format(rows)
    (ROOT / 'table.md').write_text(table)
    print(f'\n{table}\nPictures: {ROOT}/reconstruction.png, {ROOT}/segmentation.png')


def _run(jobs: dict[str, list]) -> None:
    """Run tools at the same time, each with its output in a log file; stop with the last lines of one that fails.

    Args:
        jobs: the tool and its arguments, by name.
    """
    print(f'{" and ".join(jobs)} ...', end=' ', flush=True)
    start = time.time()
    # Each of several has one thread. A single one has all, which must not spin while they wait: that would take the
    # time of the process that loads.
    threads = dict(OMP_WAIT_POLICY='PASSIVE') if len(jobs) == 1 else dict(OMP_NUM_THREADS='1')
    env = dict(os.environ, PYTHONWARNINGS='ignore', **threads)
    logs = {name: ROOT / f'{name.replace(" ", "_")}.log' for name in jobs}
    running = {}
    for name, (tool, *arguments) in jobs.items():
        command = [sys.executable, f'tools/{tool}.py', *map(str, arguments)]
        with open(logs[name], 'w') as output:
            running[name] = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=env)
    failed = [name for name, process in running.items() if process.wait()]
    print(f'{time.time() - start:.0f} s')
    for name in failed:
        sys.exit('\n'.join([*logs[name].read_text().splitlines()[-20:], f'{name} failed; all of it: {logs[name]}']))


def _train(**configs: str) -> None:
    """Train at the same time what is not there yet: the configs, by the names of their folders."""
    missing = {}
    for name, config in configs.items():
        if _is_current(config, name):
            print(f'{name}: already trained, kept')
        else:
            options = FROM_RANDOM if name == 'finetune_from_random' else []
            missing[f'train {name}'] = ['train', f'configs/demo/{config}.py', '--work-dir', ROOT / name, *options]
    if missing:
        _run(missing)


def _is_current(config: str, name: str) -> bool:
    """Whether a stage's checkpoint is there and newer than its config and than what it starts from."""
    file, checkpoint = Path(f'configs/demo/{config}.py'), _checkpoint(config, name)
    sources = [file, *(_checkpoint(start, start) for start in STARTS.get(config, ()))]
    return checkpoint.is_file() and all(
        source.is_file() and source.stat().st_mtime < checkpoint.stat().st_mtime for source in sources
    )


def _checkpoint(config: str, name: str) -> Path:
    cfg = Config.fromfile(f'configs/demo/{config}.py')
    last = f'epoch_{cfg.train_cfg.max_epochs}' if 'max_epochs' in cfg.train_cfg else f'iter_{cfg.train_cfg.max_iters}'
    return ROOT / name / f'{last}.pth'


def _test(config: str, name: str, *options: object) -> dict[str, float]:
    """Scores of tools/test.py."""
    folder = ROOT / name / 'test'
    arguments = [f'configs/demo/{config}.py', _checkpoint(config, name), '--work-dir', folder, *options]
    _run({f'test {name}': ['test', *arguments]})
    return json.loads(max(folder.glob('*/*.json'), key=lambda path: path.stat().st_mtime).read_text())


def _score_rows() -> list[Row]:
    codes = _test('tokenizer', 'tokenizer')['tokenizer/used_codes']
    masked = _test('pretrain', 'pretrain')
    top1 = _test('finetune', 'finetune')['accuracy/top1']
    random_top1 = _test('finetune', 'finetune_from_random')['accuracy/top1']
    miou = _test('segment', 'segment', '--out', PREDICTIONS)['mIoU']
    frequent = masked['masked_token/most_frequent']
    twice = f'at least {2 * frequent:.1f}, twice that of the most frequent token ({frequent:.1f})'
    less = f'at most {top1 - 5:.1f}, 5 points less'
    return [
        ('vocabulary in use, %', 'at least 25', *_verdict(codes, 25)),
        ('masked-token accuracy, %', twice, *_verdict(masked['masked_token/accuracy'], 2 * frequent)),
        ('held-out digits, top-1 %', 'at least 90', *_verdict(top1, 90)),
        ('the same from random weights, top-1 %', less, *_verdict(random_top1, top1 - 5, below=True)),
        ('scenes, foreground IoU, %', 'at least 80', *_verdict(_foreground_iou(), 80)),
        ('scenes, mIoU, %', 'at least 30, aiming at 60', *_verdict(miou, 60, least=30)),
    ]


def _verdict(figure: float, aim: float, below: bool = False, least: float = None) -> tuple[str, str]:
    met = figure <= aim if below else figure >= aim
    if not met and least is not None and figure >= least:
        return f'{figure:.1f}', 'least met, aim missed'
    return f'{figure:.1f}', 'met' if met else 'missed'


def _scene(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Picture (H, W, 3), ground truth and prediction (H, W) of a validation scene; 255 is unlabelled."""
    data = DATA / 'ade20k'
    truth, prediction = data / 'annotations/validation' / f'{name}.png', PREDICTIONS / f'{name}.png'
    files = data / 'images/validation' / f'{name}.jpg', truth, prediction
    image, truth, prediction = (np.asarray(Image.open(file)) for file in files)
    return image, truth - np.uint8(1), prediction - np.uint8(1)  # as ADE20K: files count from 1, 0 is unlabelled


def _scene_names() -> list[str]:
    return sorted(path.stem for path in PREDICTIONS.glob('*.png'))


def _foreground_iou() -> float:
    """IoU in percent of digits, whichever they are, against background, over all labelled pixels."""
    both = either = 0
    for _, truth, prediction in map(_scene, _scene_names()):
        labelled = truth != 255
        truth, prediction = truth[labelled] > 0, prediction[labelled] > 0
        both += (truth & prediction).sum()
        either += (truth | prediction).sum()
    return 100 * both / either


def _draw_reconstructions(path: Path, num_images: int = 8) -> None:
    cfg = Config.fromfile('configs/demo/pretrain.py')
    mmengine.registry.init_default_scope(cfg.default_scope)
    mmengine.runner.set_random_seed(0)
    model = MODELS.build(cfg.model)
    load_checkpoint(model, str(_checkpoint('pretrain', 'pretrain')))
    data = mmengine.registry.DATASETS.build(cfg.val_dataloader.dataset)
    chosen = np.linspace(0, len(data) - 1, num_images).astype(int)
    batch = model.data_preprocessor(default_collate([data[int(index)] for index in chosen]))
    draw_reconstructions(reconstruct_batch(model, **batch)).save(path)


def _draw_scenes(path: Path, num_images: int = 8) -> None:
    palette = Config.fromfile('configs/demo/segment.py').dataset.metainfo.palette
    segmentation_panel(*zip(*map(_scene, _scene_names()[:num_images])), palette).save(path)


def _format(rows: list[Row]) -> str:
    table = [('', 'aim', 'figure', ''), ('---',) * 4, *rows]
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in table) + '\n'


if __name__ == '__main__':
    try:
        main()
    except ValueError as error:  # such as a data folder that holds other files
        sys.exit(f'error: {error}')
