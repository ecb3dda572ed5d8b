"""The stages of both demonstrations: what each starts from, whether it is done, how far it is, and its process."""

import os
import sys
from argparse import Namespace
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from mmengine.config import Config

from beit_mm.engine.optimizers.autocast_wrapper import computes_in_bfloat16
from beit_mm.engine.runners.ending import run
from beit_mm.engine.runners.launch import train
from beit_mm.errors import UserError
from beit_mm.model_index import MIM
from beit_mm.visualization.report.logs import current_training, Curve, read_curves, read_sessions, Session

# Those of the working directory, if it has any, else the package's.
CONFIGS = next(folder for folder in (Path('configs', 'demo'), MIM / 'configs' / 'demo') if folder.is_dir())
TRUNK = 'model.backbone.init_cfg.checkpoint'
LONG = dict(tokenizer=(2000, 60), pretrain=(45, 3), finetune=(24, 2), segment=(3000, 200))  # and the warm-ups
TOKENIZER = 'model.target.tokenizer.init_cfg.checkpoint'
TEACHER = 'model.teacher.trunk.init_cfg.checkpoint'


@dataclass
class Stage:
    """One training.

    Attributes:
        folder: its work directory.
        config: its config file.
        title, text: what the page says of it.
        score, score_text, scale: a number that it logs, by its name in the logs and in words, in percent times a scale.
        start, start_key: the stage or the file that it starts from, and where the config names that checkpoint.
        options: keys of the config that change.
    """

    folder: Path
    config: Path
    title: str
    text: str
    score: str
    score_text: str
    scale: float = 1.0
    start: 'Stage | Path | None' = None
    start_key: str = TRUNK
    options: dict[str, object] = field(default_factory=dict)

    @cached_property
    def checkpoint(self) -> Path:
        """Its last checkpoint."""
        cfg = Config.fromfile(self.config)
        cfg.merge_from_dict(self.options)
        cfg = cfg.train_cfg
        last = f'epoch_{cfg.max_epochs}' if 'max_epochs' in cfg else f'iter_{cfg.max_iters}'
        return self.folder / f'{last}.pth'

    @property
    def start_file(self) -> Path | None:
        """The checkpoint that it starts from."""
        return self.start.checkpoint if isinstance(self.start, Stage) else self.start

    def is_current(self, checkpoint: Path) -> bool:
        """Whether a checkpoint is there and newer than the config and than what the stage starts from."""
        sources = [self.config, *([self.start_file] if self.start_file else [])]
        return checkpoint.is_file() and all(
            source.is_file() and source.stat().st_mtime < checkpoint.stat().st_mtime for source in sources
        )

    @property
    def is_done(self) -> bool:
        return self.is_current(self.checkpoint)

    @property
    def log(self) -> Path:
        return self.folder.with_suffix('.log')

    def train(self, threads: int) -> None:
        """Train, in a process of its own, with the output in a log; an interrupted training goes on."""
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(log, stream)
        torch.set_num_threads(threads)
        # For heads as small as these its backward pass in bfloat16 takes ten times as long as the plain one, on a CPU.
        torch.backends.cuda.enable_flash_sdp(False)
        sys.argv = ['tools/train.py', str(self.config), '--work-dir', str(self.folder)]
        options = dict(self.options, **({self.start_key: str(self.start_file)} if self.start_file else {}))
        goes_on = any(map(self.is_current, self.folder.glob('*.pth')))
        paths = dict(config=str(self.config), work_dir=str(self.folder), resume='auto' if goes_on else None)
        run(train, Namespace(**paths, cfg_options=options, launcher='none', no_validate=False, auto_scale_lr=False))

    def read(self) -> 'Progress':
        """What it has logged until now."""
        try:
            sessions = current_training(read_sessions(self.folder))
        except UserError:  # there are no logs yet
            sessions = []
        return Progress(sessions, {curve.name: curve for curves in read_curves(sessions) for curve in curves})


@dataclass
class Progress:
    """What a training has logged: its sessions, and its curves by name."""

    sessions: list[Session]
    curves: dict[str, Curve]

    @property
    def steps(self) -> tuple[int, int]:
        """Steps that are done, and those of the whole training, 0 if not known."""
        if not self.sessions:
            return 0, 0
        record = self.sessions[-1].train_record
        logged = [int(line['step']) for line in self.sessions[-1].lines if 'loss' in line]
        return max([record.iteration, *logged[-1:]]), record.max_iterations

    def last(self, name: str) -> float | None:
        """The last value of a curve; None before the first."""
        return float(self.curves[name].values[-1]) if name in self.curves else None


TOP1 = 'accuracy/top1', 'held-out digits right'
FROM_RANDOM = (
    'Classification from random weights',
    'For comparison: the same model learns the ten digits without pre-training.',
)


def _lengthen(config: str) -> dict[str, object]:
    """Options that make a training as long as in LONG."""
    length, warmup = LONG[config]
    unit = 'max_epochs' if config in ('pretrain', 'finetune') else 'max_iters'
    options = {f'train_cfg.{unit}': length, 'train_cfg.val_interval': length, 'param_scheduler.1.end': length}
    if config != 'segment':  # whose decay begins at once
        options['param_scheduler.1.begin'] = warmup
    if config == 'tokenizer':
        options['custom_hooks.0.num_iters'] = length // 2
    return {'param_scheduler.0.end': warmup, **options}


def make_stages(root: Path, full: bool, seed: int) -> dict[str, Stage]:
    """The stages by name: with short or long trainings, in folders of `root`."""

    def stage(name: str, *words: str, config: str | None = None, options: dict | None = None, **settings) -> Stage:
        config = config or name
        options = {'randomness.seed': seed, **(_lengthen(config) if full else {}), **(options or {})}
        return Stage(root / name, CONFIGS / f'{config}.py', *words, options=options, **settings)

    tokenizer = stage(
        'tokenizer',
        'Tokenizer',
        'A discrete VAE learns a vocabulary: one visual token per 8 x 8 pixels.',
        'codebook/used_codes',
        'tokens in use by a batch',
    )
    # bfloat16 changes a few tokens. The table says how many.
    fast = {'model.target.tokenizer.encode_dtype': 'bfloat16'} if computes_in_bfloat16('cpu') else {}
    pretrain = stage(
        'pretrain',
        'Pre-training',
        'The model sees images with masked patches, and predicts the visual tokens of the masked ones.',
        'masked_token_accuracy',
        'masked tokens right',
        scale=100.0,
        start=tokenizer,
        start_key=TOKENIZER,
        options=fast,
    )
    finetune = stage(
        'finetune', 'Classification', 'The pre-trained model learns the ten digits.', *TOP1, start=pretrain
    )
    stages = [
        tokenizer,
        stage(
            'finetune_from_random', *FROM_RANDOM, *TOP1, config='finetune', options={'model.backbone.init_cfg': None}
        ),
        pretrain,
        finetune,
        stage(
            'segment',
            'Segmentation',
            "The classifier's trunk under UperNet learns where the digits are in scenes of one or two.",
            'decode.acc_seg',
            'pixels right',
            start=finetune,
            options={
                'val_evaluator.output_dir': str(root / 'segment' / 'predictions'),
                'val_evaluator.keep_results': True,
            },
        ),
    ]
    return {stage.folder.name: stage for stage in stages}


def make_v2_stages(root: Path, teachers: Path, seed: int, with_beit: bool) -> dict[str, Stage]:
    """The stages of BEiT v2 by name, with a teacher that has seen labels and, `_label_free`, with one that has not.

    Args:
        root: the folder of their folders.
        teachers: folder of the demonstration's small models; the fine-tuned one and the pre-trained one teach.
        seed: of all weights and draws.
        with_beit: whether to fine-tune BEiT and random weights, too, for comparison.
    """

    def stage(name: str, *words: str, config: str, options: dict | None = None, **settings) -> Stage:
        path = CONFIGS / f'{config}.py'
        return Stage(root / name, path, *words, options={'randomness.seed': seed, **(options or {})}, **settings)

    of_beit = [
        stage(
            'finetune_from_random', *FROM_RANDOM, *TOP1, config='finetune', options={'model.backbone.init_cfg': None}
        ),
        stage(
            'finetune_beit',
            'Classification, BEiT',
            "For comparison: BEiT's pre-trained model learns the ten digits.",
            *TOP1,
            config='finetune',
            start=teachers / 'pretrain.safetensors',
        ),
    ]
    stages = of_beit if with_beit else []
    for suffix, teacher, kind, words in (
        ('', 'finetune', 'teacher with labels', 'was fine-tuned with the labels of these pictures'),
        ('_label_free', 'pretrain', 'teacher without labels', 'was pre-trained and never saw a label'),
    ):
        tokenizer = stage(
            f'tokenizer{suffix}',
            f'Tokenizer, {kind}',
            f'Codes, one per 16 x 16 pixels, learn to rebuild the features of a BEiT that {words}.',
            'codebook/used_codes',
            'codes in use by a batch',
            config='v2/tokenizer',
            start=teachers / f'{teacher}.safetensors',
            start_key=TEACHER,
        )
        pretrain = stage(
            f'pretrain{suffix}',
            f'Pre-training, {kind}',
            'The model predicts the codes of masked patches twice: from its last block, and through its class token.',
            'masked_token_accuracy',
            'masked tokens right',
            scale=100.0,
            config='v2/pretrain',
            start=tokenizer,
            start_key=TOKENIZER,
        )
        finetune = stage(
            f'finetune{suffix}',
            f'Classification, {kind}',
            'The pre-trained model learns the ten digits.',
            *TOP1,
            config='v2/finetune',
            start=pretrain,
        )
        stages += [tokenizer, pretrain, finetune]
    return {stage.folder.name: stage for stage in stages}
