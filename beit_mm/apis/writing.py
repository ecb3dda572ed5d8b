"""Files of predictions, written while these come."""

import csv
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import chain
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from beit_mm.datasets.folders import identify
from beit_mm.datasets.images import read_image
from beit_mm.files import atomic_write
from beit_mm.visualization import draw_reconstructions
from beit_mm.visualization.overlay import segmentation_overlay
from beit_mm.visualization.panels import Palette

from .predicting import Predictions
from .sources import is_local, NamedImage, result_names

NUMBER_KEYS = ('image', 'token_accuracy', 'perplexity', 'mask', 'tokens', 'predicted')
MAX_ROWS = 64  # of a sheet: more would be too high for viewers, and fill the memory
TABLE_KEYS = ('image', 'pred_label', 'pred_class', 'pred_score', 'top_labels', 'top_classes', 'top_scores')


def check_suffix(path: str, *suffixes: str) -> Path:
    """ValueError if a file to be written has none of these suffixes."""
    if Path(path).suffix not in suffixes:
        raise ValueError(f'--out must end in {" or ".join(suffixes)}, got {path}')
    return Path(path)


def refuse_inputs(images: Sequence[NamedImage], results: Iterable[Path]) -> None:
    """ValueError if a file to be written is one of the images, by whatever path or link."""
    existing = {identify(path): path for path in results if path.exists()}
    for _, source, _ in images if existing else ():
        if is_local(source) and os.path.exists(source) and identify(source) in existing:
            raise ValueError(f'results must not overwrite images, got {existing[identify(source)]}, which is {source}')


def write_classes(predictions: Iterable[dict], path: Path) -> Iterator[dict]:
    """Write predictions of `classify_each` to a table, .json or .csv, and pass them on.

    A .json file holds a list of dicts with TABLE_KEYS; a .csv file a line per image, with `label_1`, `class_1` and
    `score_1` of the best class, and so on.
    """
    write = _write_rows if path.suffix == '.json' else _write_csv
    with _whole_text(path) as file:
        yield from write(predictions, file)


def _write_rows(predictions: Iterable[dict], file: IO[str], keys: Sequence[str] = TABLE_KEYS) -> Iterator[dict]:
    """A list of dicts in JSON."""
    for number, prediction in enumerate(predictions):
        file.write(',\n' if number else '[\n')
        json.dump({key: prediction[key] for key in keys}, file, ensure_ascii=False, default=np.ndarray.tolist)
        yield prediction
    file.write('\n]\n')


def _write_csv(predictions: Iterable[dict], file: IO[str]) -> Iterator[dict]:
    table = csv.writer(file)
    for number, prediction in enumerate(predictions):
        ranks = range(1, 1 + len(prediction['top_labels']))
        if not number:
            table.writerow(['image'] + [f'{key}_{rank}' for rank in ranks for key in ('label', 'class', 'score')])
        best = zip(prediction['top_labels'], prediction['top_classes'], prediction['top_scores'])
        table.writerow([prediction['image']] + [value for one in best for value in one])
        yield prediction


@contextmanager
def _whole_text(path: Path) -> Iterator[IO[str]]:
    """A text file that appears when it is complete."""
    with atomic_write(path) as temporary, open(temporary, 'w', encoding='utf-8', newline='') as file:
        yield file


def write_label_maps(predictions: Predictions, folder: Path, palette: Palette | None, opacity: float) -> Iterator[dict]:
    """Write predictions of `segment_each` into a folder and pass them on.

    `labels/` holds a grey PNG per image, 8 or 16 bits, whose values are the labels; `overlays/` a JPEG of the image in
    the colours of its classes, with a legend.

    Args:
        folder: made if missing; both sub-folders repeat the folders of the images.
        palette, opacity: see segmentation_overlay.
    """
    files = {
        place: (folder / 'labels' / name, (folder / 'overlays' / name).with_suffix('.jpg'))
        for place, name in result_names(predictions.images, '.png').items()
    }
    refuse_inputs(predictions.images, chain.from_iterable(files.values()))
    for image, prediction in predictions:
        labels, classes = prediction['labels'], prediction['classes']
        label_file, overlay_file = files[image.place]
        _save(Image.fromarray(labels), label_file)
        pixels = read_image(image.source)[..., ::-1]
        _save(segmentation_overlay(pixels, labels, classes, palette, opacity), overlay_file, quality=95)
        yield prediction


def write_reconstructions(predictions: Predictions, folder: Path) -> Iterator[dict]:
    """Write predictions of `reconstruct_each` into a folder, a sheet per image as PNG, and pass them on; the folder
    repeats the folders of the images.
    """
    files = {place: folder / name for place, name in result_names(predictions.images, '.png').items()}
    refuse_inputs(predictions.images, files.values())
    for image, prediction in predictions:
        _save(draw_reconstructions([prediction]), files[image.place])
        yield prediction


def write_sheet(predictions: Predictions, path: Path, numbers: Path | None = None) -> Iterator[dict]:
    """Write predictions of `reconstruct_each` into one sheet, a row for each of the first MAX_ROWS, and pass all on.

    Args:
        path: the sheet, .png, .jpg or .pdf.
        numbers: a .json file for a list of dicts with NUMBER_KEYS, of all images.
    """
    refuse_inputs(predictions.images, [path] if numbers is None else [path, numbers])
    shown = []
    with nullcontext() if numbers is None else _whole_text(numbers) as file:
        rows = (prediction for _, prediction in predictions)
        for row in rows if file is None else _write_rows(rows, file, NUMBER_KEYS):
            if len(shown) < MAX_ROWS:
                shown.append(row)
            yield row
    _save(draw_reconstructions(shown, [Path(row['image']).name for row in shown]), path)


def _save(picture: Image.Image, path: Path, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)


def write_features(predictions: Iterable[dict], path: Path) -> tuple[int, ...]:
    """Write predictions of `extract_features_each` to an .npz file: `images`, their names (N,), and `features`, float32
    (N, ...), which must fit in memory.

    Returns:
        The shape of `features`.

    Raises:
        ValueError: If the features of two images differ in shape.
    """
    names, features = [], []
    for prediction in predictions:
        if features and prediction['features'].shape != features[0].shape:
            raise ValueError(
                f'features in one file must have one shape, got {features[0].shape} of {names[0]} and '
                f'{prediction["features"].shape} of {prediction["image"]}'
            )
        names.append(prediction['image'])
        features.append(prediction['features'])
    with atomic_write(path) as temporary:
        np.savez(temporary, images=np.array(names), features=np.stack(features))
    return (len(features), *features[0].shape)
