"""What the demonstrations of BEiT and of BEiT v2 train, when, and what they show at the end."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from figures import draw_results, Row, score_rows, time_row
from figures_v2 import draw_codes, NOTES, score_rows_v2
from make_digits import write_classification, write_segmentation
from small_models import write_small_models
from stages import make_stages, make_v2_stages, Stage

from beit_mm.apis.trial import FOLDER

SMALL_MODELS = Path('work_dirs', 'demo', 'models')  # that `make demo` writes; the package has a copy from another run


@dataclass
class Plan:
    """A demonstration.

    Attributes:
        title: of the page.
        stages: all, by name.
        rounds: names of the stages that run at the same time; each has its share of the cores.
        data: what writes each folder of the data.
        draw: writes pictures once all is trained, and returns them by their titles.
        finish: the table, its head first, from the minutes that all took; None if it did not run in one go.
        notes: sentences below the table.
    """

    title: str
    stages: dict[str, Stage]
    rounds: tuple[tuple[str, ...], ...]
    data: dict[str, Callable]
    draw: Callable[[], dict[str, Path]]
    finish: Callable[[float | None], list[Row]]
    notes: tuple[str, ...] = ()


def plan_beit(root: Path, full: bool, seed: int) -> Plan:
    """BEiT in a folder, with short or long trainings."""
    stages = make_stages(root, full, seed)

    def finish(minutes: float | None) -> list[Row]:
        rows = score_rows(stages, full)
        write_small_models(root / 'models', stages, rows, seed)
        timed = [] if minutes is None or full else [time_row(minutes)]
        return [('', 'aim', 'result', ''), *rows, *timed]

    return Plan(
        title='Demonstration of beit_mm',
        stages=stages,
        rounds=(('tokenizer', 'finetune_from_random'), ('pretrain',), ('finetune',), ('segment',)),
        data=dict(imagenet=write_classification, ade20k=write_segmentation),
        draw=partial(draw_results, stages, root),
        finish=finish,
    )


def plan_beit_v2(root: Path, seed: int) -> Plan:
    """BEiT v2 in a folder, beside the BEiT of `make demo`, or that of the package, which is fine-tuned here."""
    has_demo = (SMALL_MODELS / 'models.json').is_file()
    models = SMALL_MODELS if has_demo else FOLDER
    figures = json.loads((models / 'models.json').read_text())['figures']
    stages = make_v2_stages(root, models, seed, with_beit=not has_demo)
    beit = 'that of `make demo`' if has_demo else 'the pre-trained model of the package, fine-tuned here'
    return Plan(
        title='Demonstration of BEiT v2 in beit_mm',
        stages=stages,
        rounds=(
            tuple(name for name in stages if name.startswith(('tokenizer', 'finetune_from_random', 'finetune_beit'))),
            ('pretrain', 'pretrain_label_free'),
            ('finetune', 'finetune_label_free'),
        ),
        data=dict(imagenet=write_classification),
        draw=partial(draw_codes, stages, root),
        finish=partial(score_rows_v2, stages, figures),
        notes=(f'BEiT is {beit}.', *NOTES),
    )
