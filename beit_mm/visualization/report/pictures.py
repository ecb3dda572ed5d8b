"""Pictures of a run as data URIs: the first and the latest of every name."""

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from .record import FOLDER
from .sessions import Session

IMAGES = f'{FOLDER}/vis_image'
MAX_NAMES = 16
MAX_BYTES = 1_000_000  # of one picture as it is; larger ones are written anew, smaller
MAX_SIDE = 1600  # pixels
_NAME_STEP = re.compile(r'^(.*)_(\d+)$')


@dataclass
class Picture:
    """A picture at a step: size in pixels and a data URI, or what is wrong with its file."""

    step: int
    width: int = 0
    height: int = 0
    uri: str = ''
    problem: str = ''


def read_pictures(sessions: Sequence[Session]) -> tuple[dict[str, list[Picture]], int]:
    """First and latest picture of every name that a visualizer wrote, and how many names were left out.

    Args:
        sessions: whose pictures count; of the same name and step the later session's.
    """
    files: dict[str, dict[int, Path]] = {}
    for session in sessions:
        folder = session.folder / IMAGES
        for path in sorted(folder.rglob('*.png')):
            found = _NAME_STEP.match(path.relative_to(folder).with_suffix('').as_posix())
            if found:
                files.setdefault(found[1], {})[int(found[2])] = path
    chosen = {name: sorted({min(steps), max(steps)}) for name, steps in list(files.items())[:MAX_NAMES]}
    pictures = {name: [_read(files[name][step], step) for step in steps] for name, steps in chosen.items()}
    return pictures, len(files) - len(chosen)


def _read(path: Path, step: int) -> Picture:
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            kind = 'png'
            if len(content) > MAX_BYTES:
                image.thumbnail((MAX_SIDE, MAX_SIDE))
                content, kind = _as_jpeg(image), 'jpeg'
            width, height = image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # a broken chunk is the third
        return Picture(step, problem=f'{path.name} cannot be read: {error}')
    return Picture(step, width, height, f'data:image/{kind};base64,{base64.b64encode(content).decode()}')


def _as_jpeg(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.convert('RGB').save(stream, 'JPEG', quality=88)
    return stream.getvalue()
