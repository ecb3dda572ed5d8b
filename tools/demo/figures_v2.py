"""The table and the pictures of BEiT v2's demonstration."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from figures import DATA, NUM_SHOWN, Row, time_row
from PIL import Image
from stages import Stage

from beit_mm.apis import load_model
from beit_mm.visualization.sheets import stack_rows

ARMS = ('', '_label_free')
NOTES = (
    'The first teacher was fine-tuned with the labels of the same training pictures. Its codes carry what it knows of '
    'the classes, so that model has seen labels before its own fine-tuning. Only the last column is, like BEiT, '
    'without labels until then.',
    'All models have the same trunk, the same epochs and the same fine-tuning, but BEiT v2 also needs the training of '
    'its teacher. Tokens differ, so an accuracy of masked tokens compares with that of the most frequent token of its '
    'own column alone.',
    'One run with one seed on 359 held-out digits: differences of top-1 below 2.5 points mean nothing.',
)


def score_rows_v2(stages: dict[str, Stage], of_beit: Sequence[dict], minutes: float | None) -> list[Row]:
    """The table, its head first: BEiT, and BEiT v2 with a teacher that has seen labels and one that has not.

    Args:
        of_beit: figures of models.json.
        minutes: that the run took.
    """
    figures = {figure['what']: figure for figure in of_beit}
    masked = figures['masked-token accuracy, %']
    frequent = re.search(r'most frequent token \(([\d.]+)\)', masked['aim'])
    random = stages['finetune_from_random'].read().last('accuracy/top1')

    def row(what: str, of_beit: str, stage: str, score: str, digits: int = 1) -> Row:
        values = (stages[stage + arm].read().last(score) for arm in ARMS)
        return what, of_beit, *(f'{value:.{digits}f}' for value in values)

    table = [
        ('', 'BEiT', 'BEiT v2, teacher with labels', 'BEiT v2, teacher without labels'),
        row('vocabulary in use, %', figures['vocabulary in use, %']['figure'], 'tokenizer', 'tokenizer/used_codes'),
        row("distance to the teacher's features, 0 to 2", '', 'tokenizer', 'tokenizer/teacher_distance', 3),
        row('masked-token accuracy, %', masked['figure'], 'pretrain', 'masked_token/accuracy'),
        row(
            'the same of the most frequent token, %',
            frequent[1] if frequent else '',
            'pretrain',
            'masked_token/most_frequent',
        ),
        row('held-out digits, top-1 %', figures['held-out digits, top-1 %']['figure'], 'finetune', 'accuracy/top1'),
        (
            'the same from random weights, top-1 %',
            figures['the same from random weights, top-1 %']['figure'],
            *[f'{random:.1f}'] * len(ARMS),
        ),
    ]
    if minutes is not None:
        what, aim, figure, verdict = time_row(minutes)
        table.append((f'{what}, {aim}', '', f'{figure}, both columns', verdict))
    return table


@torch.no_grad()
def draw_codes(stages: dict[str, Stage], root: Path) -> dict[str, Path]:
    """Write a picture for each tokenizer: rows of patches of validation images that have the same code.

    The rows are the most frequent codes, and a patch stands in the middle of what is around it.
    """
    files = sorted((DATA / 'imagenet' / 'val').rglob('*.jpg'))
    images = np.stack([np.asarray(Image.open(path)) for path in files])
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    patch = 16
    padded = np.pad(images, ((0, 0), (patch, patch), (patch, patch), (0, 0)), mode='edge')
    pictures = {}
    for arm, words in zip(ARMS, ('teacher with labels', 'teacher without labels')):
        stage = stages[f'tokenizer{arm}']
        tokens = load_model(str(stage.config), str(stage.checkpoint), device='cpu').encode(pixels).numpy()
        counts = np.bincount(tokens.ravel())
        rows = []
        for code in np.argsort(-counts, kind='stable')[:NUM_SHOWN]:
            places = np.argwhere(tokens == code)
            chosen = places[np.linspace(0, len(places) - 1, 2 * NUM_SHOWN).astype(int)]
            cells = [
                padded[image, patch * row : patch * (row + 3), patch * column : patch * (column + 3)]
                for image, row, column in chosen
            ]
            rows.append([Image.fromarray(cell) for cell in cells])
        path = root / f'codes{arm}.png'
        stack_rows(rows).save(path)
        pictures[f'Patches with the same code, {words}'] = path
    return pictures
