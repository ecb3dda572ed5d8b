"""The demonstration's aims and figures, and its pictures of validation images."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from PIL import Image
from stages import Stage

from beit_mm.apis import load_model, reconstruct
from beit_mm.engine.optimizers.autocast_wrapper import computes_in_bfloat16
from beit_mm.models import DiscreteVAE
from beit_mm.visualization import draw_reconstructions, segmentation_panel
from beit_mm.visualization.sheets import stack_rows

DATA = Path('data/digits')
NUM_SHOWN = 8  # images in a picture
Row = tuple[str, str, str, str]  # what, aim, figure, verdict


def score_rows(stages: dict[str, Stage], full: bool) -> list[Row]:
    """The table's rows, from the last validation of every stage."""

    def score(stage: str, name: str) -> float:
        return stages[stage].read().last(name)

    least_top1, least_miou = (90, 60) if full else (85, 55)
    codes, masked = score('tokenizer', 'tokenizer/used_codes'), score('pretrain', 'masked_token/accuracy')
    frequent = score('pretrain', 'masked_token/most_frequent')
    top1, random_top1 = score('finetune', 'accuracy/top1'), score('finetune_from_random', 'accuracy/top1')
    twice = f'at least {2 * frequent:.1f}, twice that of the most frequent token ({frequent:.1f})'
    rows = [
        ('vocabulary in use, %', 'at least 25', *_verdict(codes, 25)),
        ('masked-token accuracy, %', twice, *_verdict(masked, 2 * frequent)),
        ('held-out digits, top-1 %', f'at least {least_top1}', *_verdict(top1, least_top1)),
        (
            'the same from random weights, top-1 %',
            f'at most {top1 - 5:.1f}, 5 points less',
            *_verdict(random_top1, top1 - 5, below=True),
        ),
        ('scenes, foreground IoU, %', 'at least 95', *_verdict(_foreground_iou(stages['segment']), 95)),
        ('scenes, mIoU, %', f'at least {least_miou}', *_verdict(score('segment', 'mIoU'), least_miou)),
    ]
    if computes_in_bfloat16('cpu'):
        tokenizer = load_model(str(stages['tokenizer'].config), str(stages['tokenizer'].checkpoint), device='cpu')
        share = 100 * bfloat16_agreement(tokenizer, _digits())
        rows.insert(2, ('tokens equal in bfloat16 and float32, %', '', f'{share:.1f}', ''))
    return rows


def time_row(minutes: float) -> Row:
    most = 8 if computes_in_bfloat16('cpu') else 15
    return 'time on two cores, minutes', f'at most {most}', *_verdict(minutes, most, below=True)


def _verdict(figure: float, aim: float, below: bool = False) -> tuple[str, str]:
    return f'{figure:.1f}', 'met' if (figure <= aim if below else figure >= aim) else 'missed'


@torch.no_grad()
def bfloat16_agreement(tokenizer: DiscreteVAE, paths: list[Path]) -> float:
    """Share of visual tokens of images that the tokenizer gives in bfloat16 as in float32, 0 to 1."""
    images = [np.asarray(Image.open(path).resize((48, 48), Image.LANCZOS)) for path in paths]
    views = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255
    tokens = []
    for dtype in ('float32', 'bfloat16'):
        tokenizer.encode_dtype = dtype
        tokens.append(tokenizer.encode(views))
    return (tokens[0] == tokens[1]).float().mean().item()


def _digits() -> list[Path]:
    return sorted((DATA / 'imagenet' / 'val').rglob('*.jpg'))


def _scene(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Picture (H, W, 3), ground truth and prediction (H, W) of a validation scene; 255 is unlabelled."""
    data = DATA / 'ade20k'
    files = (
        data / 'images/validation' / f'{name}.jpg',
        data / 'annotations/validation' / f'{name}.png',
        folder / f'{name}.png',
    )
    image, truth, prediction = (np.asarray(Image.open(file)) for file in files)
    return image, truth - np.uint8(1), prediction - np.uint8(1)  # as ADE20K: files count from 1, 0 is unlabelled


def _scenes(segment: Stage) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    folder = segment.folder / 'predictions'
    return [_scene(folder, path.stem) for path in sorted(folder.glob('*.png'))]


def _foreground_iou(segment: Stage) -> float:
    """IoU in percent of digits, whichever they are, against background, over all labelled pixels."""
    both = either = 0
    for _, truth, prediction in _scenes(segment):
        labelled = truth != 255
        truth, prediction = truth[labelled] > 0, prediction[labelled] > 0
        both += (truth & prediction).sum()
        either += (truth | prediction).sum()
    return 100 * both / either


def draw_data(path: Path, names: Iterable[str]) -> None:
    """Some of the pictures that the models learn from: a row for each folder of the data, of digits or of scenes."""
    rows = []
    for folder in (DATA / name / dict(imagenet='train', ade20k='images/training')[name] for name in names):
        files = sorted(folder.rglob('*.jpg'))
        rows.append([Image.open(files[index]) for index in np.linspace(0, len(files) - 1, NUM_SHOWN).astype(int)])
    stack_rows(rows).save(path)


def draw_results(stages: dict[str, Stage], root: Path) -> dict[str, Path]:
    """Write reconstruction.png and segmentation.png of validation images; returns them by their titles."""
    pretrain, segment = stages['pretrain'], stages['segment']
    digits = _digits()
    chosen = [str(digits[index]) for index in np.linspace(0, len(digits) - 1, NUM_SHOWN).astype(int)]
    results = reconstruct(str(pretrain.config), chosen, str(pretrain.checkpoint), progress=False)
    palette = Config.fromfile(segment.config).dataset.metainfo.palette
    sheets = {
        'reconstruction': draw_reconstructions(results),
        'segmentation': segmentation_panel(*zip(*_scenes(segment)[:NUM_SHOWN]), palette),
    }
    for name, sheet in sheets.items():
        sheet.save(root / f'{name}.png')
    return {f'{name.capitalize()} of validation images': root / f'{name}.png' for name in sheets}
