"""The small models of `beit-mm try`: the demonstration's weights in float16, what they reached, and pictures for them.

beit_mm/trial holds a copy of what this writes: cp -r work_dirs/demo/models/* beit_mm/trial
"""

import hashlib
import json
import shutil
from pathlib import Path

from figures import DATA
from safetensors.torch import save_file
from stages import Stage

from beit_mm.checkpoint.reading import read_checkpoint
from beit_mm.visualization.report import versions

PARTS = ('tokenizer', 'pretrain', 'finetune', 'segment')
DIGITS, SCENES = (2, 3, 5, 7, 8), range(4)  # of the bundled pictures, all from validation
CREDIT = (
    'Digits of the UCI repository over crops of china.jpg and flower.jpg by danielbuechele and vultilion '
    '(https://creativecommons.org/licenses/by/2.0), as scikit-learn contains them; drawn by tools/demo/make_digits.py.'
)


def write_small_models(folder: Path, stages: dict[str, Stage], rows: list, seed: int) -> None:
    """Write the last weights of every stage, models.json and pictures.

    The pre-trained model is written without its tokenizer, which has its own file.
    """
    (folder / 'pictures').mkdir(parents=True, exist_ok=True)
    files = {}
    for name in PARTS:
        state = read_checkpoint(str(stages[name].checkpoint), 'cpu')['state_dict']
        state = {key: value for key, value in state.items() if not key.startswith('target.tokenizer.')}
        half = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
        path = folder / f'{name}.safetensors'
        save_file({key: value.contiguous() for key, value in half.items()}, path)
        path.chmod(0o644)  # safetensors lets only the owner read
        files[path.name] = dict(bytes=path.stat().st_size, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    for digit in DIGITS:
        source = min((DATA / 'imagenet' / 'val' / f'digit_{digit}').glob('*.jpg'))
        shutil.copyfile(source, folder / 'pictures' / f'digit_{digit}.jpg')
    for scene in SCENES:
        source = DATA / 'ade20k' / 'images' / 'validation' / f'{scene:05}.jpg'
        shutil.copyfile(source, folder / 'pictures' / f'scene_{scene}.jpg')
    figures = [dict(zip(('what', 'aim', 'figure', 'verdict'), row)) for row in rows]
    made = dict(command='make demo', seed=seed, figures=figures, files=files, pictures=CREDIT, versions=versions())
    (folder / 'models.json').write_text(json.dumps(made, indent=1) + '\n')
