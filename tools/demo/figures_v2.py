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
    'One run with one seed on 359 held-out digits: differences of top-1 below 4 points mean nothing.',
)


def score_rows_v2(stages: dict[str, Stage], entries: Sequence[dict], minutes: float | None) -> list[Row]:
    """The table, its head first: BEiT, and BEiT v2 with a teacher that has seen labels and one that has not.

    Args:
        entries: figures of models.json, BEiT's.
        minutes: that the run took.
    """
    of_beit = {entry['what']: entry['figure'] for entry in entries}
    used, masked, right = 'vocabulary in use, %', 'masked-token accuracy, %', 'held-out digits, top-1 %'
    from_random, top1 = 'the same from random weights, top-1 %', 'accuracy/top1'
    aims = ' '.join(entry['aim'] for entry in entries)
    frequent = re.search(r'most frequent token \(([\d.]+)\)', aims)

    def score(stage: str, name: str, digits: int = 1) -> str:
        return f'{stages[stage].read().last(name):.{digits}f}'

    def row(what: str, beit: str, stage: str, *name: str | int) -> Row:
        return what, beit, *(score(stage + arm, *name) for arm in ARMS)

    for what, stage in ((right, 'finetune_beit'), (from_random, 'finetune_from_random')):
        if stage in stages:
            of_beit[what] = score(stage, top1)
    table = [
        ('', 'BEiT', 'BEiT v2, teacher with labels', 'BEiT v2, teacher without labels'),
        row(used, of_beit[used], 'tokenizer', 'tokenizer/used_codes'),
        row("distance to the teacher's features, 0 to 2", '', 'tokenizer', 'tokenizer/teacher_distance', 3),
        row(masked, of_beit[masked], 'pretrain', 'masked_token/accuracy'),
        row('of the most frequent token, %', frequent[1] if frequent else '', 'pretrain', 'masked_token/most_frequent'),
        row(right, of_beit[right], 'finetune', top1),
        (from_random, *[of_beit[from_random]] * 3),
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
        pictures[f'Patches with the same code and what is around them, {words}'] = path
    return pictures
