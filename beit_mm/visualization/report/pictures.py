"""Pictures of a run as data URIs: the first and the latest of every name."""

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from .logs import Session
from .record import FOLDER

MAX_NAMES = 16
MAX_BYTES = 1_000_000  # larger files are scaled down and written as JPEG
MAX_SIDE = 1600  # pixels


@dataclass
class Picture:
    """A picture at a step: size in pixels and a data URI, or what is wrong with its file."""

    step: int
    width: int = 0
    height: int = 0
    uri: str = ''
    problem: str = ''


def read_pictures(sessions: Sequence[Session]) -> tuple[dict[str, list[Picture]], int]:
    """The first and the latest picture of every name that a visualizer wrote, and how many names were left out.

    Args:
        sessions: the sessions; the later one wins where name and step are the same.
    """
    files: dict[str, dict[int, Path]] = {}
    for session in sessions:
        folder = session.folder / FOLDER / 'vis_image'
        for path in sorted(folder.rglob('*.png')):
            match = re.fullmatch(r'(.*)_(\d+)', path.relative_to(folder).with_suffix('').as_posix())
            if match:
                files.setdefault(match[1], {})[int(match[2])] = path
    chosen = {name: sorted({min(steps), max(steps)}) for name, steps in list(files.items())[:MAX_NAMES]}
    pictures = {name: [_read(files[name][step], step) for step in steps] for name, steps in chosen.items()}
    return pictures, len(files) - len(chosen)


def _read(path: Path, step: int) -> Picture:
    try:
        content, image_type = path.read_bytes(), 'png'
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            if len(content) > MAX_BYTES:
                image.thumbnail((MAX_SIDE, MAX_SIDE))
                stream = io.BytesIO()
                image.convert('RGB').save(stream, 'JPEG', quality=88)
                content, image_type = stream.getvalue(), 'jpeg'
            width, height = image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow's, of broken chunks too
        return Picture(step, problem=f'{path.name} cannot be read: {error}')
    return Picture(step, width, height, f'data:image/{image_type};base64,{base64.b64encode(content).decode()}')
