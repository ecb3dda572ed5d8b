"""Show what small trained models make of pictures, in half a minute.

The page shows reconstructions, attention, features, classes and segmentation,
of bundled pictures or of yours. The models know handwritten digits only.

Example:
  beit-mm try cat.jpg
"""

import argparse
from pathlib import Path

from .arguments import existing, output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('images', nargs='*', type=existing, metavar='IMAGE', help='image files, or folders; default: bundled pictures')
    page = dict(type=output('.html'), default=Path('beit_mm_try.html'), metavar='FILE')
    add('--out', **page, help='the page; default: beit_mm_try.html')


def run(args: argparse.Namespace) -> None:
    from mmengine.logging import MMLogger

    from beit_mm.apis.trial import try_models
    from beit_mm.text import show

    MMLogger.get_current_instance().setLevel('WARNING')  # the bundled weights fit
    page = try_models(args.images or None, args.out)
    print(f'wrote {show(page.resolve())}: open it in a browser')
    print('These are toy models. Next: `beit-mm demo` trains them, `beit-mm models` lists the real ones.')
