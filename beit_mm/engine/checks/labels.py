"""Checks of labels against the head: class names, folders per class, annotation lines, label maps."""
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

from mmpretrain.datasets import BaseDataset, CustomDataset, ImageNet, ImageNet21k, MultiLabelDataset
from mmseg.datasets import BaseSegDataset
from PIL import Image

from ...datasets import ClassFolders
from .model_sizes import argument
from .parts import Part
from .problems import Problem
from .run_plan import RunPlan

SPLITTING = (ImageNet, ImageNet21k)  # data sets with an argument `split`
IGNORED = 255
MAX_THREADS = 16


def check_labels(plan: RunPlan) -> Iterator[Problem]:
    """Labels of every data set in use that lies on this machine, all of them; of others the number of class names."""
    class_folders: Dict[str, List[str]] = {}
    label_maps: List[dict] = []
    zeros: Dict[bool, str] = {}
    for part in (part for loader in plan.loaders for part in plan.below(f'{loader}.dataset')):
        if part.is_a(BaseSegDataset):
            yield from _compare_zeros(part, zeros)
            source = {name: value for name, value in part.cfg.items() if name != 'pipeline'}
            if source not in label_maps:  # a test on the validation's is read once
                yield from _check_label_maps(plan, part)
                label_maps.append(source)
        elif part.is_a(CustomDataset) and not part.is_a(MultiLabelDataset):
            if argument(part, 'with_label') is not False and not _is_unlabelled_split(part):
                yield from _check_classes(plan, part, class_folders)
        elif part.is_a(BaseDataset):
            yield from _check_names(plan, part, 'head')


def _compare_zeros(part: Part, zeros: Dict[bool, str]) -> Iterator[Problem]:
    """Whether label 0 is a class in one data set and left out in another."""
    value = bool(argument(part, 'reduce_zero_label'))
    if value not in zeros and zeros:
        yield Problem(f'{part.key}.reduce_zero_label', f'is {value} here and {not value} in {zeros[not value]}, so the '
                      'same label means another class; set both alike')
    zeros.setdefault(value, part.key)


def _num_classes(plan: RunPlan, head: str) -> Optional[int]:
    node = (plan.cfg.get('model') or {}).get(head)
    number = node.get('num_classes') if isinstance(node, dict) else None
    return number if isinstance(number, int) else None


def _check_names(plan: RunPlan, part: Part, head: str, is_error: bool = True) -> Iterator[Problem]:
    """A warning where the data may well hold fewer labels than there are names."""
    names = _class_names(part)
    if names:
        yield from _check_number(plan, part, head, len(names), f'the {len(names)} class names of {part.name}', is_error)


def _check_number(plan: RunPlan, part: Part, head: str, count: int, where: str,
                  is_error: bool = True) -> Iterator[Problem]:
    """A problem if labels 0 to count - 1 do not fit the head; only a warning for hosts' models, which may add one."""
    num_classes = _num_classes(plan, head)
    if num_classes is not None and count > num_classes > 1:
        others = 'data_preprocessor' if head == 'head' else 'auxiliary_head'
        yield Problem(f'model.{head}.num_classes', f'labels 0 to {count - 1} of {where} ({part.key}) lie outside of '
                      f'{num_classes} classes; set num_classes={count} here and in {others}',
                      is_error=is_error and plan.has_own_parts)


def _class_names(part: Part) -> Sequence[str]:
    """Class names in the config, which may be in a file, or of the class."""
    given = part.cfg.get('classes') or (part.cfg.get('metainfo') or {}).get('classes')
    given = given or part.cls.METAINFO.get('classes') or ()
    return _lines(Path(given)) if isinstance(given, str) else given


def _is_unlabelled_split(part: Part) -> bool:
    return part.cfg.get('split') == 'test' and part.is_a(*SPLITTING)


def _check_classes(plan: RunPlan, part: Part, class_folders: Dict[str, List[str]]) -> Iterator[Problem]:
    """A data set of MMPretrain's CustomDataset: labels by line of a file or by folder."""
    root, annotations = _image_root(part)
    if annotations is not None:
        labels = _labels_of_lines(annotations)
        yield from _check_number(plan, part, 'head', max(labels, default=-1) + 1, str(annotations))
    elif root.is_dir():
        folders = sorted(path.name for path in root.iterdir() if path.is_dir())
        count = len(folders)
        names = list(_class_names(part))
        if part.is_a(ClassFolders) and names:
            yield from _check_named_folders(part, folders, names, root)
            count = max((names.index(folder) + 1 for folder in folders if folder in names), default=0)
        elif names and len(names) != len(folders):
            yield Problem(f'{part.key}.metainfo.classes', f'{len(folders)} class folders in {root} and {len(names)} '
                          'class names; set metainfo=dict(classes=[...]) with a name for each folder')
            return
        else:
            yield from _compare_folders(part, folders, class_folders)
        yield from _check_number(plan, part, 'head', count, str(root))
    else:
        yield from _check_names(plan, part, 'head', is_error=False)


def _check_named_folders(part: Part, folders: List[str], names: List[str], root: Path) -> Iterator[Problem]:
    unknown = [folder for folder in folders if folder not in names and not folder.startswith('.')]
    if unknown:
        yield Problem(f'{part.key}.metainfo.classes', f'the folder {unknown[0]} in {root} is none of '
                      f'{", ".join(names[:6])}; name the folders as the classes')


def _compare_folders(part: Part, folders: List[str], class_folders: Dict[str, List[str]]) -> Iterator[Problem]:
    """Labels count folders, so data sets with other folders have other labels."""
    for other, names in class_folders.items():
        if names != folders:
            odd = sorted(set(names) ^ set(folders))[0]
            yield Problem(part.key, f'class folders differ from those of {other} ({odd} is in one alone), so the same '
                          'label means another class; add or remove folders, or use beit_mm.ClassFolders')
    class_folders[part.key] = folders


def _image_root(part: Part) -> Tuple[Path, Optional[Path]]:
    """Folder of the images, and the annotation file if there is one, as MMPretrain finds them."""
    root = Path(part.cfg.get('data_root') or '')
    prefix = part.cfg.get('data_prefix') or ''
    prefix = prefix.get('img_path') or '' if isinstance(prefix, dict) else prefix
    annotations = part.cfg.get('ann_file') or ''
    split = part.cfg.get('split') if part.is_a(*SPLITTING) else ''
    if split:
        prefix = prefix or split
        if not annotations and (root / 'meta' / f'{split}.txt').is_file():
            annotations = f'meta/{split}.txt'
    path = root / annotations
    return root / prefix, path if annotations and path.is_file() else None


def _lines(path: Path) -> List[str]:
    return [line for line in path.read_text().splitlines() if line.strip()] if path.is_file() else []


def _labels_of_lines(path: Path) -> List[int]:
    """Last words of the lines, if all are numbers."""
    words = [line.rpartition(' ')[2] for line in _lines(path)]
    return [int(word) for word in words] if all(word.isdigit() for word in words) else []


def _check_label_maps(plan: RunPlan, part: Part) -> Iterator[Problem]:
    """Every label PNG of an MMSegmentation data set against the decode head, as LoadAnnotations would read it."""
    num_classes, paths = _num_classes(plan, 'decode_head'), _label_paths(part)
    if num_classes is None or num_classes < 2:
        return
    if not paths:
        yield from _check_names(plan, part, 'decode_head', is_error=False)
        return
    reduces, label_map = bool(argument(part, 'reduce_zero_label')), _label_map(part)
    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:  # PIL decodes outside of Python's lock
        found = list(pool.map(_read_labels, paths))
    highest = -1
    for path, labels in zip(paths, found):
        if labels is None:
            yield Problem(part.key, f'{path} must be a PNG with one label per pixel in 8 bits, got another kind of '
                          'picture; write it as a gray or palette PNG')
            return
        wrong = [label for label in labels if not _fits(label, reduces, label_map, num_classes)]
        if wrong:
            yield _outside(part, path, max(wrong), reduces, num_classes)._replace(is_error=plan.has_own_parts)
            return
        highest = max([highest, *(label for label in labels if label != IGNORED)])
    if reduces and highest == num_classes - 1 and not label_map:
        yield Problem(f'{part.key}.reduce_zero_label', f'label 0 is left out and {num_classes} never occurs in '
                      f'{len(paths)} label maps; set reduce_zero_label=False if 0 is a class', is_error=False)


def _outside(part: Part, path: Path, label: int, reduces: bool, num_classes: int) -> Problem:
    first = 1 if reduces else 0
    mend = f'set num_classes={label + 1 - first} here and in auxiliary_head, or mend the file'
    if not reduces and label == num_classes:  # what data looks like whose 0 means unlabelled
        mend = f'set reduce_zero_label=True if 0 means unlabelled, or num_classes={num_classes + 1}'
    return Problem('model.decode_head.num_classes', f'label {label} in {path} ({part.key}) lies outside of '
                   f'{num_classes} classes, {first} to {num_classes - 1 + first} with reduce_zero_label={reduces}; '
                   f'{mend}')


def _fits(label: int, reduces: bool, label_map: Optional[dict], num_classes: int) -> bool:
    if reduces:
        label = IGNORED if label in (0, IGNORED) else label - 1
    if label_map:
        label = label_map.get(label, label)
    return label < num_classes or label == IGNORED


def _label_map(part: Part) -> Optional[dict]:
    try:
        return part.cls.get_label_map((part.cfg.get('metainfo') or {}).get('classes'))
    except ValueError:  # told when the data set is built
        return None


def _label_paths(part: Part) -> List[Path]:
    """Label maps of a data set whose pipeline reads pictures of labels."""
    prefix, root = part.cfg.get('data_prefix') or {}, Path(part.cfg.get('data_root') or '')
    folder = root / (prefix.get('seg_map_path') or '') if isinstance(prefix, dict) else root
    suffix = argument(part, 'seg_map_suffix')
    loaders = [step for step in part.cfg.get('pipeline') or () if isinstance(step, dict)]
    reads_pictures = any(str(step.get('type')).rpartition('.')[2] == 'LoadAnnotations' for step in loaders)
    if not reads_pictures or suffix is None or folder == root or not folder.is_dir():
        return []
    annotations = root / (part.cfg.get('ann_file') or '')
    if annotations.is_file():
        return [path for line in _lines(annotations) if (path := folder / f'{line.strip()}{suffix}').is_file()]
    return sorted(path for path in folder.rglob(f'*{suffix}') if path.is_file())


def _read_labels(path: Path) -> Optional[List[int]]:
    """Labels in a map; None if it is no picture of one 8-bit value per pixel."""
    try:
        with Image.open(path) as image:
            counts = image.histogram() if image.mode in ('L', 'P') else None
    except OSError:
        return None
    return counts and [label for label, count in enumerate(counts) if count]
