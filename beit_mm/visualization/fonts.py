"""Fonts for names in any script."""

import logging
from functools import cache, lru_cache
from pathlib import Path

from mmengine.logging import print_log
from PIL import ImageFont

SIZE = 13
PLACEHOLDERS = 'LastResort'  # matplotlib's font of boxes for all characters


@lru_cache(maxsize=1024)
def fit_font(text: str) -> tuple[str, ImageFont.FreeTypeFont | ImageFont.ImageFont]:
    """The text and a font that has its characters: Pillow's for English, else matplotlib's, else the system's.

    Characters that no font has become escapes, and a warning names them.
    """
    if text.isascii():
        return text, ImageFont.load_default(SIZE)
    wanted = {ord(char) for char in text}
    best, most = '', -1
    for path in _font_files():
        known = len(wanted & _characters(path))
        if known > most:
            best, most = path, known
        if known == len(wanted):
            break
    missing = wanted - _characters(best)
    if missing:
        shown = ''.join(map(chr, sorted(missing)))
        _warn(f'no font here has the characters {shown}: install one, such as the package fonts-noto-cjk for Chinese')
        text = ''.join(c.encode('unicode_escape').decode() if ord(c) in missing else c for c in text)
    return text, ImageFont.truetype(best, SIZE)


@lru_cache
def _warn(message: str) -> None:  # once
    print_log(message, logger='current', level=logging.WARNING)


@lru_cache(maxsize=1)
def _font_files() -> list[str]:
    """Matplotlib's own font, then those that matplotlib knows: of the system, and added by `fontManager.addfont`."""
    from matplotlib.font_manager import findfont, fontManager

    others = [entry.fname for entry in fontManager.ttflist if entry.style == 'normal' and int(entry.weight) <= 500]
    return [findfont('DejaVu Sans'), *(path for path in others if PLACEHOLDERS not in Path(path).name)]


@cache
def _characters(path: str) -> frozenset[int]:
    """The characters of a font; none of one that cannot be drawn at this size, such as an emoji font of pictures."""
    from matplotlib.ft2font import FT2Font

    try:
        ImageFont.truetype(path, SIZE)
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
