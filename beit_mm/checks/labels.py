"""Checks of labels against the head: class names, folders per class, annotation lines, label maps."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from mmpretrain.datasets import BaseDataset, CustomDataset, ImageNet, ImageNet21k, MultiLabelDataset
from mmseg.datasets import BaseSegDataset

from beit_mm.datasets import ClassFolders, LoadAnnotations

from .annotations import AnnotationFile
from .label_maps import check_label_maps, compare_zeros, label_pairs
from .model_sizes import argument
from .parts import Part
from .problems import Problem
from .run_plan import RunPlan

SPLITTING = (ImageNet, ImageNet21k)  # data sets with an argument `split`


def check_labels(plan: RunPlan) -> Iterator[Problem]:
    """Labels of every data set in use that lies on this machine, all of them; of others the number of class names."""
    class_folders: dict[str, list[str]] = {}
    read: list[dict] = []
    zeros: dict[bool, str] = {}
    for part in (part for loader in plan.loaders for part in plan.below(f'{loader}.dataset')):
        if part.is_a(BaseSegDataset):
            yield from compare_zeros(part, zeros)
            source = {name: value for name, value in part.cfg.items() if name != 'pipeline'}
            if source not in read:  # a test on the validation's is read once
                yield from _check_segmentation(plan, part)
                read.append(source)
        elif part.is_a(CustomDataset) and not part.is_a(MultiLabelDataset):
            has_labels = argument(part, 'with_label') is not False and not _is_unlabelled_split(part)
            yield from _check_lines(plan, part, has_labels)
            if has_labels:
                yield from _check_classes(plan, part, class_folders)
        elif part.is_a(BaseDataset):
            yield from _check_names(plan, part, 'head')


def _num_classes(plan: RunPlan, head: str) -> int | None:
    node = (plan.cfg.get('model') or {}).get(head)
    number = node.get('num_classes') if isinstance(node, dict) else None
    return number if isinstance(number, int) else None


def _check_names(plan: RunPlan, part: Part, head: str, is_error: bool = True) -> Iterator[Problem]:
    """A warning where the data may well hold fewer labels than there are names."""
    names = _class_names(part)
    if names:
        yield from _check_number(plan, part, head, len(names), f'the {len(names)} class names of {part.name}', is_error)


def _check_number(
    plan: RunPlan, part: Part, head: str, count: int, where: str, is_error: bool = True
) -> Iterator[Problem]:
    """A problem if labels 0 to count - 1 do not fit the head; only a warning for hosts' models, which may add one."""
    num_classes = _num_classes(plan, head)
    if num_classes is not None and count > num_classes > 1:
        others = 'data_preprocessor' if head == 'head' else 'auxiliary_head'
        yield Problem(
            f'model.{head}.num_classes',
            f'labels 0 to {count - 1} of {where} ({part.key}) lie outside of '
            f'{num_classes} classes; set num_classes={count} here and in {others}',
            is_error=is_error and plan.has_own_parts,
        )


def _class_names(part: Part) -> Sequence[str]:
    """Class names in the config, which may be in a file, or of the class."""
    given = part.cfg.get('classes') or (part.cfg.get('metainfo') or {}).get('classes')
    given = given or part.cls.METAINFO.get('classes') or ()
    if isinstance(given, str):
        return [line for line in Path(given).read_text().splitlines() if line.strip()] if Path(given).is_file() else []
    return given


def _is_unlabelled_split(part: Part) -> bool:
    return part.cfg.get('split') == 'test' and part.is_a(*SPLITTING)


def _check_classes(plan: RunPlan, part: Part, class_folders: dict[str, list[str]]) -> Iterator[Problem]:
    """A data set of MMPretrain's CustomDataset: labels by line of a file or by folder."""
    root, annotations = _image_root(part)
    if annotations is not None:
        return
    if root.is_dir():
        folders = sorted(path.name for path in root.iterdir() if path.is_dir())
        count = len(folders)
        names = list(_class_names(part))
        if part.is_a(ClassFolders) and names:
            yield from _check_named_folders(part, folders, names, root)
            count = max((names.index(folder) + 1 for folder in folders if folder in names), default=0)
        elif names and len(names) != len(folders):
            yield Problem(
                f'{part.key}.metainfo.classes',
                f'{len(folders)} class folders in {root} and {len(names)} '
                'class names; set metainfo=dict(classes=[...]) with a name for each folder',
            )
            return
        else:
            yield from _compare_folders(part, folders, class_folders)
        yield from _check_number(plan, part, 'head', count, str(root))
    else:
        yield from _check_names(plan, part, 'head', is_error=False)


def _check_named_folders(part: Part, folders: list[str], names: list[str], root: Path) -> Iterator[Problem]:
    unknown = [folder for folder in folders if folder not in names and not folder.startswith('.')]
    if unknown:
        yield Problem(
            f'{part.key}.metainfo.classes',
            f'the folder {unknown[0]} in {root} is none of {", ".join(names[:6])}; name the folders as the classes',
        )


def _compare_folders(part: Part, folders: list[str], class_folders: dict[str, list[str]]) -> Iterator[Problem]:
    """Labels count folders, so data sets with other folders have other labels."""
    for other, names in class_folders.items():
        if names != folders:
            odd = sorted(set(names) ^ set(folders))[0]
            yield Problem(
                part.key,
                f'class folders differ from those of {other} ({odd} is in one alone), so the same '
                'label means another class; add or remove folders, or use beit_mm.ClassFolders',
            )
    class_folders[part.key] = folders


def _image_root(part: Part) -> tuple[Path, Path | None]:
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


def _check_lines(plan: RunPlan, part: Part, has_labels: bool) -> Iterator[Problem]:
    """The annotation file of a data set that reads it as MMPretrain's CustomDataset does."""
    folder, path = _image_root(part)
    if path is None or part.cls.load_data_list is not CustomDataset.load_data_list:
        return
    lines = AnnotationFile(part.key, path, Path(part.cfg.get('data_root') or folder), folder, has_labels)
    yield from lines.problems()
    if lines.highest is not None:
        yield from _check_number(plan, part, 'head', lines.highest.label + 1, f'{path}:{lines.highest.line}')


def _check_segmentation(plan: RunPlan, part: Part) -> Iterator[Problem]:
    """Annotation file and label maps; where these are out of reach, the class names alone."""
    root, prefix = Path(part.cfg.get('data_root') or ''), part.cfg.get('data_prefix') or {}
    path = root / (part.cfg.get('ann_file') or '')
    if path.is_file() and part.cls.load_data_list is BaseSegDataset.load_data_list and isinstance(prefix, dict):
        folder = root / (prefix.get('img_path') or '')
        yield from AnnotationFile(part.key, path, root, folder, has_labels=False).problems()
    num_classes = _num_classes(plan, 'decode_head')
    if num_classes is None or num_classes < 2:
        return
    yield from _check_step(plan, part, num_classes)
    pairs = label_pairs(part)
    if pairs:
        yield from check_label_maps(plan, part, pairs, num_classes)
    else:
        yield from _check_names(plan, part, 'decode_head', is_error=False)


def _check_step(plan: RunPlan, part: Part, num_classes: int) -> Iterator[Problem]:
    """Our step that reads label maps refuses what is no class of it."""
    for step in plan.below(f'{part.key}.pipeline'):
        own = step.cfg.get('num_classes')
        if step.is_a(LoadAnnotations) and isinstance(own, int) and own < num_classes:
            yield Problem(
                f'{step.key}.num_classes',
                f'labels from {own} on are refused, and model.decode_head has '
                f'{num_classes} classes; set num_classes={num_classes}',
            )
