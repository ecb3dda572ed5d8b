"""The page of an evaluation: its answer, its scores as a table and a plot, and pictures of what the features know."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from beit_mm.datasets.images import read_image
from beit_mm.files import atomic_write
from beit_mm.text import show
from beit_mm.visualization.sheets import draw_sheet, principal_colors, to_picture

from .contenders import OWN, Part, RANDOM
from .evaluation import Evaluation, FINETUNING, LINEAR
from .run import say

NUM_ASKED, NUM_NEAREST, CELL = 8, 5, 110  # pictures in the sheets, and their side in pixels
MAX_POINTS = 2000  # of the map


@dataclass
class Answer:
    """What most people want to know.

    Attributes:
        method, number: of the scores below: how, and with how many labelled images, about a tenth of all.
        own, random: scores of all seeds.
    """

    method: str
    number: int
    own: list[float]
    random: list[float]

    @classmethod
    def of(cls, evaluation: Evaluation) -> 'Answer':
        method = FINETUNING if evaluation.finetunes else LINEAR
        tenth = len(evaluation.known.files) / 10
        number = min(evaluation.counts, key=lambda count: abs(count - tenth))
        return cls(method, number, *(evaluation.of(method, name, number) for name in (OWN, RANDOM)))

    def __str__(self) -> str:
        gains = np.subtract(self.own, self.random)
        what = f'{self.method} with {self.number:,} labelled images'
        scores = f'{np.mean(self.own):.1f} % from {OWN}, {np.mean(self.random):.1f} % from {RANDOM}'
        gain = f'{gains.mean():+.1f} points' + (f', {gains.min():+.1f} in the worst seed' if len(gains) > 1 else '')
        return f'{what}: {scores}; {gain}'


def write_evaluation(evaluation: Evaluation) -> Path:
    """Write index.html, which needs no other file, print the table, and return the page's path."""
    from jinja2 import Environment, StrictUndefined

    head, *rows = table = score_table(evaluation)
    for cells in (head, ['---'] * len(head), *rows):
        print(f'| {" | ".join(map(show, cells))} |')
    answer = str(Answer.of(evaluation))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(Path(__file__).with_name('evaluation.html').read_text(encoding='utf-8'))
    page = evaluation.out / 'index.html'
    with atomic_write(page) as temporary:
        text = template.render(
            root=show(evaluation.root),
            answer=answer,
            table=table,
            labels=show(evaluation.labels.describe()),
            num_seeds=evaluation.num_seeds,
            pictures=_draw(evaluation),
            finetunes=evaluation.finetunes,
        )
        temporary.write_text(text, encoding='utf-8', errors='replace')
    say(answer=answer, page=page)
    return page


def score_table(evaluation: Evaluation) -> list[list[str]]:
    """A row for each method and number of labelled images, below the names of the weights."""
    table = [['top-1, %', 'labelled images', *(each.name for each in evaluation.contenders)]]
    for method in evaluation.methods:
        for number in evaluation.counts:
            scores = [evaluation.of(method, each.name, number) for each in evaluation.contenders]
            table.append([method, f'{number:,}', *map(describe_scores, scores)])
    return table


def describe_scores(scores: list[float]) -> str:
    """Mean and standard deviation; of equal scores the mean alone."""
    return f'{np.mean(scores):.1f}' + (f' ± {np.std(scores, ddof=1):.1f}' if len(set(scores)) > 1 else '')


def _draw(evaluation: Evaluation) -> dict[str, str]:
    """Pictures by their titles, as the text of PNG or SVG files in base64."""
    own, random, *_ = evaluation.contenders
    number = min(NUM_ASKED, len(evaluation.asked.files))
    shown = [int(index) for index in np.linspace(0, len(evaluation.asked.files) - 1, number)]
    known, asked = evaluation.features(own)
    extractor = own.extractor(0, 'patches')
    pictures = [_picture(extractor, evaluation.asked.files[index]) for index in shown]
    patches = np.stack([result['features'] for result in extractor([evaluation.asked.files[i] for i in shown])])
    columns = {'image': pictures, 'features as colours': principal_colors(patches)}
    unit = torch.nn.functional.normalize
    nearest = (unit(asked[shown]) @ unit(known).t()).topk(min(NUM_NEAREST, len(known)), dim=1).indices
    for rank, found in enumerate(nearest.t().tolist(), 1):
        columns[f'neighbour {rank}'] = [_picture(extractor, evaluation.known.files[index]) for index in found]
    names = evaluation.labels.classes
    captions = [
        f'{names[evaluation.asked.classes[index]]}; neighbours: '
        + ', '.join(names[evaluation.known.classes[other]] for other in found)
        for index, found in zip(shown, nearest.tolist())
    ]
    maps = {OWN: asked, RANDOM: evaluation.features(random)[1]}
    return {
        'Scores': _as_text(plot_scores(evaluation)),
        'Images to ask for, their patches, and their nearest labelled neighbours': _as_text(
            draw_sheet(columns, captions, cell=CELL)
        ),
        'Map of the features: their two principal components': _as_text(plot_maps(maps, evaluation.asked, names)),
    }


def _picture(extractor, file: str) -> np.ndarray:
    return to_picture(read_image(file, extractor.load, extractor.channels))


def plot_scores(evaluation: Evaluation) -> Image.Image:
    """A chart for each method: scores over the number of labelled images, with standard deviations."""
    methods = evaluation.methods
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * len(methods), 3.2), layout='constrained')
    for axes, method in zip(figure.subplots(1, len(methods), sharey=True), methods):
        for contender in evaluation.contenders:
            scores = [evaluation.of(method, contender.name, number) for number in evaluation.counts]
            spread = [np.std(each, ddof=1) if len(each) > 1 else 0 for each in scores]
            means = [np.mean(each) for each in scores]
            axes.errorbar(evaluation.counts, means, spread, marker='o', capsize=3, label=show(contender.name))
        axes.set(title=method, xlabel='labelled images', xscale='log', ylim=(0, 100))
        axes.set_xticks(evaluation.counts, [f'{number:,}' for number in evaluation.counts])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel('right, %')
    figure.axes[0].legend(fontsize='small')
    return _to_image(figure)


def plot_maps(features: dict[str, torch.Tensor], part: Part, names: list[str]) -> Image.Image:
    """Every image as a point in the color of its class, for each of several kinds of features (N, C)."""
    chosen = np.linspace(0, len(part.files) - 1, min(MAX_POINTS, len(part.files))).astype(int)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4 * len(features), 4.4), layout='constrained')
    for axes, (title, values) in zip(figure.subplots(1, len(features)), features.items()):
        values = values[chosen].double()
        centred = values - values.mean(dim=0)
        points = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:2].t()
        points = torch.nn.functional.pad(points, (0, 2 - points.shape[1]))  # of one image there is one component
        drawn = axes.scatter(
            *points.t().numpy(), c=part.classes[chosen], cmap='tab20' if len(names) > 10 else 'tab10', s=9
        )
        axes.set(title=title, xticks=[], yticks=[])
    if len(names) <= 20:
        seen = [show(names[label]) for label in np.unique(part.classes[chosen])]
        figure.legend(drawn.legend_elements(num=None)[0], seen, loc='outside right center', fontsize='small')
    return _to_image(figure)


def _to_image(figure) -> Image.Image:
    stream = io.BytesIO()
    figure.savefig(stream, format='png', dpi=110)
    return Image.open(stream)


def _as_text(picture: Image.Image) -> str:
    stream = io.BytesIO()
    picture.save(stream, 'PNG')
    return base64.b64encode(stream.getvalue()).decode()
