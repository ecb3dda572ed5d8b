"""Checks of starting points: whether a checkpoint holds the names that a prefix or a model asks for.

Names alone are read, from the head of a safetensors file or the list of contents of what torch.save wrote, so a file of
any size takes milliseconds and nothing in it is executed. Whether shapes fit is said when the file is loaded.
"""

import json
import pickletools
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from beit_mm.checkpoint.checksums import split_checksum
from beit_mm.config.parts import walk
from beit_mm.models import BEiT
from beit_mm.models.weight_layouts import find_layouts

from .problems import Problem, suggest
from .run_plan import RunPlan

MAX_LIST = 1 << 26  # bytes of a list of contents; larger ones are left to the loader


def check_weights(plan: RunPlan) -> Iterator[Problem]:
    """`init_cfg` prefixes under which a checkpoint holds nothing, and a `load_from` without any name of the model."""
    for key, node in walk(plan.cfg.get('model'), 'model'):
        prefix, path = node.get('prefix'), node.get('checkpoint')
        if node.get('type') == 'Pretrained' and isinstance(prefix, str) and isinstance(path, str):
            names = our_names(path)
            prefix = prefix if prefix.endswith('.') else f'{prefix}.'
            if names is not None and not any(name.startswith(prefix) for name in names):
                tops = _prefixes(names)
                yield Problem(
                    f'{key}.prefix',
                    f'{prefix} is not in the pretrained model {path}, '
                    + suggest(
                        prefix, tops, f"it holds {_listing(tops)}; name another file, or prefix=None for a trunk's own"
                    ),
                )
    yield from _check_load_from(plan)


def _prefixes(names: set[str]) -> list[str]:
    """First words of names, the most frequent first."""
    counts = Counter(name.split('.')[0] for name in sorted(names) if '.' in name)
    return [f'{word}.' for word, _ in counts.most_common()]


def _listing(prefixes: list[str]) -> str:
    return ', '.join(prefixes[:4]) or 'no such names'


def _check_load_from(plan: RunPlan) -> Iterator[Problem]:
    path = plan.cfg.get('load_from')
    names = our_names(path) if isinstance(path, str) and plan.model is not None else None
    if names is None:
        return
    own = set(plan.model.state_dict())
    if not own & (names | {name.removeprefix('module.') for name in names}):
        what = (
            'BEiT trunk'
            if any(isinstance(module, BEiT) for module in plan.model.modules())
            else (type(plan.model).__name__)
        )
        yield Problem(
            'load_from',
            f'{path}: the checkpoint does not fit this {what}: 0 of its {len(own)} tensors '
            f'found a match, it holds {_listing(_prefixes(names))}; name a checkpoint of this model',
        )


def our_names(checkpoint: str) -> set[str] | None:
    """Names of the tensors in a checkpoint as a model gets them: BEiT's under ours, whatever layout they are in.

    Returns:
        The names, and of files by torch.save other texts in them; None for what cannot be read fast: addresses,
        folders, other kinds of files.
    """
    path = Path(split_checksum(checkpoint)[0]).expanduser()
    try:
        names = _safetensors_names(path) if path.suffix == '.safetensors' else _pickled_texts(path)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):  # no such file or a damaged one, which others tell
        return None
    for layout, prefix, _ in find_layouts(names or ()):
        return {layout.our_name(other, prefix) or other for other in names}
    return names and set(names)


def _safetensors_names(path: Path) -> list[str]:
    """The format's head: its length in 8 bytes, then a JSON object."""
    with path.open('rb') as file:
        length = int.from_bytes(file.read(8), 'little')
        head: dict[str, dict] = json.loads(file.read(length)) if length < MAX_LIST else {}
    if not head:
        raise ValueError('no names')
    return [name for name in head if name != '__metadata__']


def _pickled_texts(path: Path) -> list[str] | None:
    """All texts like names in the pickle that lists what a file of torch.save holds, a zip archive since torch 1.6."""
    with path.open('rb') as file:
        if file.read(4) != b'PK\3\4':
            return None
        with zipfile.ZipFile(file) as archive:
            member = next((item for item in archive.infolist() if item.filename.endswith('/data.pkl')), None)
            if member is None or member.file_size > MAX_LIST:
                return None
            content = archive.read(member)
    texts = (value for code, value, _ in pickletools.genops(content) if 'UNICODE' in code.name)
    return [text for text in texts if re.fullmatch(r'[A-Za-z_][\w.-]*', text)]
