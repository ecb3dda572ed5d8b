"""Files of results, written while the results come.

The functions take Predictions and pass on their (image, result) pairs. A file appears when it is complete.
"""

import csv
import json
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from beit_mm.errors import UserError
from beit_mm.files import atomic_write
from beit_mm.text import show, show_cell
from beit_mm.visualization.reconstruction import draw_reconstructions
from beit_mm.visualization.sheets import label_picture, Palette, segmentation_overlay, to_picture

from .images import identify, NamedImage
from .inferencer import Predictions

CLASS_KEYS = ('image', 'pred_label', 'pred_class', 'pred_score', 'top_labels', 'top_classes', 'top_scores')
RECONSTRUCTION_KEYS = ('image', 'token_accuracy', 'perplexity', 'mask', 'tokens', 'predicted')
MAX_SIDE = 8192  # of an overlay, in pixels
SHEETS = ('.png', '.jpg', '.pdf')
TABLES = ('.csv', '.parquet')  # of features
MAX_ROWS = 64  # of a sheet: viewers refuse higher pictures, and all rows stay in memory
Pairs = Iterator[tuple[NamedImage, dict]]


def refuse_inputs(images: Sequence[NamedImage], results: Iterable[Path]) -> None:
    """UserError if a file to be written is one of the images, by any path or link."""
    existing = {identify(path): path for path in results if path.exists()}
    for image in images if existing else ():
        if isinstance(image.source, (str, Path)) and identify(image.source) in existing:
            path = existing[identify(image.source)]
            raise UserError(f'results must not overwrite images, got {path}, which is {image.name}')


def result_files(images: Sequence[NamedImage], folder: Path, suffix: str) -> dict[str, Path]:
    """The file for the result of every image, by its result_path.

    The suffix replaces the image's own, or follows it where two images differ in nothing else (`a.jpg`, `a.png`).
    """
    stems = {image.result_path: posixpath.splitext(image.result_path)[0] for image in images}
    counts = Counter(stems.values())
    return {
        path: folder / ((stem if counts[stem] == 1 and stem not in stems else path) + suffix)
        for path, stem in stems.items()
    }


def write_classes(predictions: Predictions, path: Path | None) -> Pairs:
    """Write a table of results of ClassificationInferencer; None for no table.

    A .json file has CLASS_KEYS. A .csv file has a line per image, with `label_1`, `class_1` and `score_1` of the best
    class, and so on; names are as `show_cell` writes them.
    """
    if path is None:
        yield from predictions
        return
    refuse_inputs(predictions.images, [path])
    if path.suffix == '.json':
        yield from _write_json(predictions, path, CLASS_KEYS)
        return
    with atomic_write(path) as temporary, open(temporary, 'w', encoding='utf-8', newline='') as file:
        table = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC)  # a spreadsheet may take ; for the end of a cell
        for index, (image, result) in enumerate(predictions):
            best = list(zip(result['top_labels'], result['top_classes'], result['top_scores']))
            if not index:
                ranks = range(1, len(best) + 1)
                table.writerow(['image', *(f'{key}_{rank}' for rank in ranks for key in ('label', 'class', 'score'))])
            cells = [result['image'], *(value for columns in best for value in columns)]
            table.writerow([show_cell(cell) if isinstance(cell, str) else cell for cell in cells])
            yield image, result


def _write_json(predictions: Predictions, path: Path, keys: Sequence[str]) -> Pairs:
    """Write a list with a dict of these keys for every result."""
    # A name that is no UTF-8 has surrogates, which are escaped as JSON escapes them.
    options = dict(encoding='utf-8', errors='backslashreplace')
    with atomic_write(path) as temporary, open(temporary, 'w', **options) as file:
        for index, (image, result) in enumerate(predictions):
            file.write(',\n' if index else '[\n')
            json.dump({key: result[key] for key in keys}, file, ensure_ascii=False, default=np.ndarray.tolist)
            yield image, result
        file.write('\n]\n')


def write_label_maps(predictions: Predictions, folder: Path, palette: Palette | None, opacity: float) -> Pairs:
    """Write results of SegmentationInferencer into a folder, which repeats the folders of the images.

    `labels/` has a PNG per image, whose values are the labels: 8 bits with the colors of the classes as its palette,
    or 16 bits in gray. `overlays/` has a JPEG of the image in the colors of its classes, with a legend; a longer side
    than MAX_SIDE is reduced. `probabilities/` has an .npy file per image, float16 (num_classes, H, W), if they are
    computed.

    Args:
        palette, opacity: see segmentation_overlay.
    """
    labels = result_files(predictions.images, folder / 'labels', '.png')
    overlays = result_files(predictions.images, folder / 'overlays', '.jpg')
    arrays = result_files(predictions.images, folder / 'probabilities', '.npy')
    refuse_inputs(predictions.images, [*labels.values(), *overlays.values(), *arrays.values()])
    for image, result in predictions:
        step = -(-max(image.pixels.shape[:2]) // MAX_SIDE)
        picture, reduced = to_picture(image.pixels[::step, ::step]), result['labels'][::step, ::step]
        overlay = segmentation_overlay(picture, reduced, result['classes'], palette, opacity)
        _save(label_picture(result['labels'], palette), labels[image.result_path])
        _save(overlay, overlays[image.result_path], quality=95)
        if 'probabilities' in result:
            with atomic_write(arrays[image.result_path]) as temporary:
                np.save(temporary, result['probabilities'].astype(np.float16))
        yield image, result


def write_reconstructions(predictions: Predictions, out: Path, numbers: Path | None) -> Pairs:
    """Write results of ReconstructionInferencer as pictures.

    Args:
        out: one sheet with a row for each of the first MAX_ROWS images, if it ends in one of SHEETS; otherwise a folder
            for a PNG per image, which repeats the folders of the images.
        numbers: a .json file for RECONSTRUCTION_KEYS of all images.
    """
    is_sheet = out.suffix in SHEETS
    files = {} if is_sheet else result_files(predictions.images, out, '.png')
    refuse_inputs(predictions.images, [*([out] if is_sheet else files.values()), *([numbers] if numbers else [])])
    rows: list[dict] = []
    for image, result in _write_json(predictions, numbers, RECONSTRUCTION_KEYS) if numbers else predictions:
        if not is_sheet:
            _save(draw_reconstructions([result]), files[image.result_path])
        elif len(rows) < MAX_ROWS:
            rows.append(result)
        yield image, result
    if is_sheet:
        _save(draw_reconstructions(rows, [Path(row['image']).name for row in rows]), out)


def _save(picture: Image.Image, path: Path, **options) -> None:
    with atomic_write(path) as temporary:
        picture.save(temporary, **options)


def write_features(predictions: Predictions, path: Path) -> tuple[int, ...]:
    """Write `images`, their names (N,), and `features`, float32 (N, ...), of a FeatureInferencer to an .npz file.

    A .csv or .parquet file has a row for each image, with the columns `image`, `feature_0`, `feature_1` and so on;
    names in .csv are as `show_cell` writes them. A path without a suffix is a folder for an .npy file per image, in
    the folders of the images.

    Returns the shape of `features`, which must fit in memory.

    Raises:
        UserError: If the features of two images differ in shape, except in a folder; if they have more dimensions than
            a table; or if the package for .parquet is missing.
    """
    if not path.suffix:
        return _write_arrays(predictions, result_files(predictions.images, path, '.npy'))
    refuse_inputs(predictions.images, [path])
    results = [result for _, result in predictions]
    shapes = {result['features'].shape: result['image'] for result in reversed(results)}
    if len(shapes) > 1:
        text = ' and '.join(f'{shape} of {name}' for shape, name in shapes.items())
        raise UserError(f'features in one file must have one shape, got {text}: give --out a folder instead')
    features, images = np.stack([result['features'] for result in results]), [result['image'] for result in results]
    if path.suffix in TABLES and features.ndim != 2:
        raise UserError(f'{path} has a row for each image, got features of shape {features.shape[1:]}: use .npz')
    with atomic_write(path) as temporary:
        if path.suffix == '.csv':
            with temporary.open('w', newline='', encoding='utf-8') as file:
                table = csv.writer(file)
                table.writerow(['image', *(f'feature_{column}' for column in range(features.shape[1]))])
                table.writerows([show_cell(name), *row.tolist()] for name, row in zip(images, features))
        elif path.suffix == '.parquet':
            _write_parquet(temporary, images, features)
        else:
            np.savez(temporary, images=np.array(images), features=features)
    return features.shape


def _write_parquet(path: Path, images: list[str], features: np.ndarray) -> None:
    try:
        from pyarrow import parquet, table
    except ImportError as error:
        raise UserError(f'{path.suffix} files need a package: pip install pyarrow') from error
    columns = {f'feature_{column}': values for column, values in enumerate(features.T)}
    parquet.write_table(table(dict(image=[show(name) for name in images], **columns)), path)


def _write_arrays(predictions: Predictions, files: dict[str, Path]) -> tuple[int, ...]:
    refuse_inputs(predictions.images, files.values())
    count, shape = 0, ()
    for image, result in predictions:
        with atomic_write(files[image.result_path]) as temporary:
            np.save(temporary, result['features'])
        count, shape = count + 1, result['features'].shape
    return count, *shape
