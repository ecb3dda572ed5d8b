"""The configs that a pre-training on a folder writes."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pprint import pformat

from beit_mm.files import atomic_write
from beit_mm.model_index import MIM
from beit_mm.text import show

from .folder import Folder, MAX_BAD_SHARE
from .labels import Labels
from .plan import Plan, TRUNKS
from .templates import DATA, FINETUNE, HEAD, LENGTH, NEIGHBOURS, PRETRAIN, TOKENIZER

TITLES = dict(
    tokenizer='A tokenizer of {plan.vocab_size} visual tokens',
    pretrain='BEiT {plan.trunk}, pre-trained',
    finetune='BEiT {plan.trunk}, fine-tuned on labels',
)
FINETUNE_EPOCHS = 30
FEW_IMAGES = 1000  # of a fine-tuning
MAX_LABELLED = 1000, 500  # labelled images of a score, and those that are asked for


@dataclass
class Writer:
    """Writes the configs of a plan.

    Args:
        out: the folder for the configs and their work directories.
        folder, labels, plan: what they are for; labels may be None.
        processes: that train.
        command: of beit-mm, that asks for them.
    """

    out: Path
    folder: Folder
    labels: Labels | None
    plan: Plan
    processes: int = 1
    command: str = 'pretrain'

    def file(self, stage: str) -> Path:
        return self.out / f'{stage}.py'

    def checkpoint(self, stage: str, max_iters: int) -> Path:
        """What a training of so many steps writes at its end."""
        return self.out / stage / f'iter_{max_iters}.pth'

    def text(self, stage: str, length: int, start: Path | None = None, comment: Sequence[str] = ()) -> str:
        """The text of a config.

        Args:
            stage: 'tokenizer', 'pretrain' or 'finetune'.
            length: steps, of a fine-tuning epochs.
            start: checkpoint that it starts from; None for random weights.
            comment: lines of its head.
        """
        folder, plan, labels = self.folder, self.plan, self.labels
        width, depth, heads = plan.widths
        values = dict(
            vars(self),
            base='tokenizer_kmeans' if stage == 'tokenizer' else stage,
            title=TITLES[stage].format(plan=plan),
            train=train_tool(),
            file=show(self.file(stage)),
            name=show(folder.path),
            comment='\n'.join(
                textwrap.fill(line, 118, initial_indent='# ', subsequent_indent='# ') for line in comment
            ),
            length=length,
            work_dir=str(self.out / stage),
            checkpoint=str(start),
            init_cfg=f'dict(checkpoint={str(start)!r})' if start else None,
            total=plan.batch * self.processes,
            highest=2**folder.bits - 1,
            load="imdecode_backend='simplejpeg'"
            + ('' if folder.color_type == 'color' else f', color_type={folder.color_type!r}, bands=in_channels')
            + (f',\n            value_range={folder.value_range}' if folder.value_range else ''),
            extensions=f', extensions={folder.extensions}' if folder.extensions else '',
            bad_share=round(min(MAX_BAD_SHARE, max(0.05, 2 * len(folder.bad) / max(1, folder.num_seen))), 3),
            order=' in RGB' if folder.bands == 3 else '',
            widths=f'embed_dim={width}, depth={depth}, num_heads={heads}',
            embed_dim=width,
            mean=_wrap(folder.mean),
            std=_wrap(folder.std),
            saturation=0.4 if folder.bands == 3 else 0.0,
            lr=TRUNKS[plan.trunk][3] if stage == 'finetune' else plan.learning_rate(self.processes),
        )
        if labels:
            for name, number, most in zip(('num_train', 'num_val'), labels.counts, MAX_LABELLED):
                values[name] = min(number, most)
            values['classes'] = pformat(labels.classes, width=100, compact=True)
            values['known'], values['asked'] = map(_arguments, labels.sources)
            values['finetune_batch'] = finetune_batch(labels.counts[0])
        parts = dict(
            tokenizer=[DATA, TOKENIZER, LENGTH],
            pretrain=[DATA, PRETRAIN, LENGTH, *([NEIGHBOURS] if labels else [])],
            finetune=[FINETUNE],
        )
        text = ''.join(part.format(**values) for part in [HEAD, *parts[stage]])
        return text.replace('{{', r'{\x7b')  # in a folder's name; MMEngine would put something else there

    def write(self, stage: str, *args) -> str:
        """Write a config, see `text`; returns its text."""
        text = self.text(stage, *args)
        with atomic_write(self.file(stage)) as temporary:
            temporary.write_text(text, encoding='utf-8')
        return text


def finetune_batch(num_images: int) -> int:
    """Images of a fine-tuning's step. Few images in more steps score higher for the same time."""
    return min(16 if num_images < FEW_IMAGES else 32, max(1, num_images // 4))


def _arguments(values: dict[str, str]) -> str:
    return ', '.join(f'{name}={value!r}' for name, value in values.items())


def _wrap(numbers: list[float]) -> str:
    return textwrap.fill(str(numbers), 100, subsequent_indent=14 * ' ')


def train_tool() -> Path:
    """tools/train.py of the working directory, or of the installed package."""
    here, installed = Path('tools', 'train.py'), MIM / 'tools' / 'train.py'
    return here if here.is_file() and here.samefile(installed) else installed
