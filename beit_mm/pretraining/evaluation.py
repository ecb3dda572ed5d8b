"""What a pre-training was worth: scores with few and many labels, beside those of random and of other weights."""

import hashlib
import io
import json
import math
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config

from beit_mm.apis import FeatureInferencer
from beit_mm.config.reading import read_config
from beit_mm.datasets import ClassFolders
from beit_mm.errors import UserError
from beit_mm.evaluation.metrics import predict_by_neighbours, predict_by_regression
from beit_mm.files import atomic_write, hold
from beit_mm.model_index import find_config
from beit_mm.visualization.report.logs import read_curves, read_sessions

from .configs import finetune_batch, Writer
from .contenders import Contender, digest, OWN, Part, RANDOM
from .folder import Folder
from .labels import Labels, read_labels, write_list
from .run import say, train_stage
from .templates import EVALUATED

SHARES = 0.01, 0.1, 1.0  # of the labelled images
NEIGHBOURS, LINEAR, FINETUNING = METHODS = 'nearest neighbours', 'linear classifier', 'fine-tuning'
MIN_STEPS, MIN_EPOCHS = 400, 10  # of a fine-tuning: our choice


@dataclass
class Evaluation:
    """Scores of a folder of `beit-mm pretrain`.

    Args:
        root: the folder.
        labels_path: labelled images, as of `beit-mm pretrain --labels`.
        num_seeds: draws of labelled images, of random weights and of fine-tunings.
        finetunes: whether models are fine-tuned, too.
        others: pairs of a model's name or config and its weights.

    Attributes:
        scores: shares of the asked images that are classified right, in percent, by method, contender and number of
            labelled images; a number for each seed.

    Raises:
        UserError, OSError: If there is no whole pre-training, or the labels or other weights do not fit.
    """

    root: Path
    labels_path: str
    num_seeds: int
    finetunes: bool
    others: Sequence[tuple[str, str]] = ()
    scores: dict[tuple[str, str, int, int], float] = field(default_factory=dict, init=False)
    _features: dict[tuple[str, int], tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict, init=False)

    def __post_init__(self):
        cfg = _read_pretraining(self.root)
        names = [
            Path(folder, f'iter_{cfg.train_cfg.max_iters}.pth') for folder in (cfg.work_dir, self.root / 'pretrain')
        ]
        weights = next((name for name in names if name.is_file()), None)  # the second if the folder was moved
        if weights is None:
            raise UserError(f'{names[0]} is missing: end the pre-training first, by beit-mm pretrain --resume')
        self.out = self.root / 'evaluate'
        self.out.mkdir(exist_ok=True)
        self.cfg, self.images = cfg, _folder_of(cfg)
        self.labels = read_labels(self.labels_path, self.images, self.out)
        self.known, self.asked = (_read_part(source, self.labels, self.images) for source in self.labels.sources)
        self.contenders = [Contender.of(OWN, cfg, str(weights)), Contender.of(RANDOM, cfg, None)]
        for name, file in self.others:
            title = f'{Path(file).name} ({Path(name).stem})'
            if title in (each.name for each in self.contenders):
                title = f'{file} ({name})'
            other = Contender.of(title, read_config(find_config(name)), file)
            kinds = [
                (self.images.bands, self.images.bits),
                (len(other.mean), other.cfg.get('highest', 255).bit_length()),
            ]
            if kinds[0] != kinds[1]:
                got, expected = (f'{bands} bands of {bits} bits' for bands, bits in kinds)
                raise UserError(f'{name} is for images of {expected}, got {got} in {self.root}')
            self.contenders.append(other)
        least = len(self.labels.classes)
        self.counts = sorted({max(least, round(share * len(self.known.files))) for share in SHARES})
        if num_equal := _count_copies(self.known.files, self.asked.files):
            say(equal=f'{num_equal} of {len(self.asked.files)} images to ask for have the content of a known one')
        parts = [
            [(os.path.relpath(file, self.labels_path), os.path.getsize(file)) for file in part.files]
            + part.classes.tolist()
            for part in (self.known, self.asked)
        ]
        self.path = self.out / f'scores_{digest(json.dumps(parts))}.json'  # one for each set of labelled images
        self._read_scores()

    @property
    def methods(self) -> tuple[str, ...]:
        return METHODS if self.finetunes else METHODS[:2]

    def run(self) -> None:
        """Compute the scores that are not there yet; each is written at once, so that a second command goes on."""
        with hold(self.out):
            for contender in self.contenders:
                self._score_frozen(contender)
            if self.finetunes:
                self._score_fine_tuned()

    def of(self, method: str, contender: str, number: int) -> list[float]:
        """Scores of all seeds."""
        return [self.scores[method, contender, number, seed] for seed in range(self.num_seeds)]

    def features(self, contender: Contender, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (N, C) of the known and of the asked images, computed once."""
        key = contender.name, 0 if contender.weights else seed  # random weights alone depend on the seed
        if key not in self._features:
            extractor = contender.extractor(seed)
            self._features[key] = _extract(extractor, self.known), _extract(extractor, self.asked)
        return self._features[key]

    def _score_frozen(self, contender: Contender) -> None:
        """Scores of its features, by both methods that do not train the trunk."""
        truth = torch.from_numpy(self.asked.classes)
        for seed in range(self.num_seeds):
            keys = [(method, contender.name, number, seed) for method in METHODS[:2] for number in self.counts]
            if all(key in self.scores for key in keys):
                continue
            all_known, asked = self.features(contender, seed)
            for number in self.counts:
                drawn = torch.from_numpy(self.known.draw(number, seed))
                known, labels = all_known[drawn], torch.from_numpy(self.known.classes)[drawn]
                k = replace(self.labels, counts=[number, 0]).neighbours
                unit = torch.nn.functional.normalize
                found = {
                    NEIGHBOURS: predict_by_neighbours(unit(asked), unit(known), labels, k),
                    LINEAR: predict_by_regression(asked, known, labels),
                }
                for method, classes in found.items():
                    score = 100 * (classes == truth).float().mean().item()
                    self.scores[method, contender.name, number, seed] = score
            self._write_scores()
        say(frozen=contender.name)

    def _score_fine_tuned(self) -> None:
        jobs = [
            (contender, number, seed)
            for seed in range(self.num_seeds)
            for number in reversed(self.counts)  # the first job takes the longest, which bounds the others
            for contender in self.contenders
            if (FINETUNING, contender.name, number, seed) not in self.scores
        ]
        took: dict[tuple[int, float], float] = {}  # seconds, by number of images and cost of an image
        left = ''
        for done, (contender, number, seed) in enumerate(jobs, 1):
            say(fine_tuning=f'{done} of {len(jobs)}: {contender.name}, {number:,} images, seed {seed}{left}')
            start = time.monotonic()
            self.scores[FINETUNING, contender.name, number, seed] = self._finetune(contender, number, seed)
            self._write_scores()
            took[number, contender.plan.cost] = time.monotonic() - start
            rest = [
                min((took[key] * other.plan.cost / key[1] for key in took if key[0] >= images), default=math.inf)
                for other, images, _ in jobs[done:]
            ]
            left = f'; at most {math.ceil(sum(rest) / 60)} minutes left' if math.inf not in rest else ''

    def _finetune(self, contender: Contender, number: int, seed: int) -> float:
        """The score of a model that is trained by its own config, as tools/train.py does."""
        run = self.out / f'{contender.folder}_{number}_{seed}'
        if run.exists():  # that was stopped
            shutil.rmtree(run)
        prefix = self.labels.sources[0]['data_prefix']
        lines = [
            f'{Path(self.known.files[index]).relative_to(prefix)} {self.known.classes[index]}\n'
            for index in self.known.draw(number, seed)
        ]
        source = write_list(run / 'labelled.txt', prefix, lines)
        labels = replace(self.labels, counts=[number, len(self.asked.files)], sources=[source, self.labels.sources[1]])
        folder = replace(self.images, mean=contender.mean, std=contender.std)
        writer = Writer(run, folder, labels, contender.plan, command='evaluate')
        comment = [f'From {contender.name}, with {number:,} labelled images, seed {seed}.']
        epochs = max(MIN_EPOCHS, math.ceil(MIN_STEPS / max(1, number // finetune_batch(number))))
        text = writer.text('finetune', epochs, contender.weights, comment)
        writer.file('finetune').write_text(text + EVALUATED.format(seed=seed), encoding='utf-8')
        train_stage(writer.file('finetune'), None, 'none', io.StringIO())  # the log is also in a file
        scores = {curve.name: curve.values[-1] for curve in read_curves(read_sessions(run / 'finetune'))[1]}
        return float(scores['accuracy/top1'])

    def _write_scores(self) -> None:
        names = ('method', 'weights', 'images', 'seed')
        rows = [dict(zip(names, key), top1=score) for key, score in self.scores.items()]
        with atomic_write(self.path) as temporary:
            content = dict(weights=self.states, scores=rows)
            temporary.write_text(json.dumps(content, indent=1), encoding='utf-8')

    def _read_scores(self) -> None:
        """Read what an earlier command has written for the same images and weights."""
        self.states = {each.name: each.state for each in self.contenders}
        try:
            content = json.loads(self.path.read_text(encoding='utf-8'))
            earlier, rows = content['weights'], content['scores']
            self.states = earlier | self.states
            for row in rows:
                if earlier[row['weights']] == self.states[row['weights']]:
                    self.scores[row['method'], row['weights'], row['images'], row['seed']] = row['top1']
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f'{self.path} must be as this command writes it; remove it') from error
        say(known_scores=f'{len(self.scores)} of {len(rows)} in {self.path} are of these weights')


def _count_copies(known: list[str], asked: list[str]) -> int:
    """Asked files with the content of a known one; files of a length that only one part has are not read."""
    lengths = set(map(os.path.getsize, known)) & set(map(os.path.getsize, asked))
    ours, others = (
        [hashlib.blake2b(Path(file).read_bytes()).digest() for file in files if os.path.getsize(file) in lengths]
        for files in (known, asked)
    )
    digests = set(ours)
    return sum(other in digests for other in others)


def _extract(extractor: FeatureInferencer, part: Part) -> torch.Tensor:
    """Features (N, C) of the images of a part."""
    results = extractor(part.files)
    if results.skipped:
        name, reason = next(iter(results.skipped.items()))
        raise UserError(f'labelled images must be readable, got {name}: {reason}; mend or remove it')
    return torch.from_numpy(np.stack([result['features'] for result in results]))


def _read_pretraining(root: Path) -> Config:
    file = root / 'pretrain.py'
    if not file.is_file():
        raise UserError(f'{root} must be a folder that beit-mm pretrain has written, got one without pretrain.py')
    cfg = read_config(file)
    if missing := [name for name in ('data_root', 'in_channels', 'highest', 'load') if name not in cfg]:
        raise UserError(f'{file} must be as beit-mm pretrain writes it, got one without {missing[0]}')
    return cfg


def _folder_of(cfg: Config) -> Folder:
    """What the config says of the images that it is for."""
    kind = dict(bands=cfg.in_channels, bits=cfg.highest.bit_length(), value_range=cfg.load.get('value_range'))
    extensions, color_type = cfg.train_dataloader.dataset.get('extensions'), cfg.load.get('color_type', 'color')
    return Folder(cfg.data_root, 0, extensions=extensions, color_type=color_type, **kind)


def _read_part(source: dict[str, str], labels: Labels, images: Folder) -> Part:
    suffixes = dict(extensions=images.extensions) if images.extensions else {}
    dataset = ClassFolders(metainfo=dict(classes=labels.classes), pipeline=[], **source, **suffixes)
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    return Part([info['img_path'] for info in infos], np.array([info['gt_label'] for info in infos]))
