"""Settings of the documentation site: `make docs` builds it from the pages of this folder and from docstrings."""

import inspect
import itertools
from importlib import import_module
from pathlib import Path

from mmcv.transforms.utils import cache_randomness

from beit_mm import __version__

HERE = Path(__file__).parent
CONFIGS = HERE.parent / 'configs'
ROOMS = {
    'beit_mm.apis': 'Inference',
    'beit_mm.models': 'Models',
    'beit_mm.datasets': 'Data sets and transforms',
    'beit_mm.engine': 'Training',
    'beit_mm.evaluation': 'Metrics',
    'beit_mm.checkpoint': 'Weights files',
    'beit_mm.checks': 'The check of a config',
    'beit_mm.visualization': 'Pictures',
    'beit_mm.export': 'Export',
}

project = 'beit_mm'
author = copyright = 'the beit_mm contributors'
version = release = __version__
extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon', 'sphinx.ext.viewcode']
exclude_patterns = ['tutorial.ipynb']  # pages link to the file
html_theme = 'furo'
html_title = f'beit_mm {release}'

default_role = 'code'  # docstrings write `name` for code, as Markdown does
autodoc_default_options = {'members': True, 'show-inheritance': True}
napoleon_use_ivar = True
autodoc_typehints = 'signature'
autodoc_inherit_docstrings = False  # what the hosts explain stands on their pages
myst_enable_extensions = ['deflist']
myst_heading_anchors = 3

# MMCV's wrapper of random draws fails where Sphinx looks at it on the class.
get_draws = cache_randomness.__get__
cache_randomness.__get__ = lambda self, obj, cls: self if obj is None else get_draws(self, obj, cls)


def setup(app):
    app.connect('builder-inited', lambda app: write_pages(HERE / 'generated'))


def write_pages(folder: Path) -> None:
    """Write a page for every room of the package, and the table of configs."""
    folder.mkdir(exist_ok=True)
    for module, title in ROOMS.items():
        heading = f'{title}\n{"=" * len(title)}\n'
        parts = [f'.. automodule:: {module}\n   :no-members:\n']
        for name, part in public_parts(module).items():
            parts.append(f'.. auto{"class" if inspect.isclass(part) else "function"}:: {module}.{name}\n')
        (folder / f'{module}.rst').write_text('\n'.join([heading, *parts]))
    lines = ['# Configs', '']
    for section in ('', 'pretrain', 'classify', 'segment', 'own_data', 'demo', 'demo/v2'):
        lines += [f'## configs/{section}', '']
        for file in sorted((CONFIGS / section).glob('*.py')):
            lines += [f'`{file.name}`', f': {describe_config(file)}', '']
    (folder / 'configs.md').write_text('\n'.join(lines))


def public_parts(module: str) -> dict:
    """Classes and functions of a room that users may import from it, by name."""
    room = import_module(module)
    names = getattr(room, '__all__', [name for name in vars(room) if not name.startswith('_')])
    parts = {name: getattr(room, name) for name in sorted(names)}
    return {
        name: part
        for name, part in parts.items()
        if (inspect.isclass(part) or inspect.isfunction(part)) and part.__module__.startswith(module)
    }


def describe_config(file: Path) -> str:
    """The text at the beginning of a config, its commands as code."""
    header = itertools.takewhile(lambda line: line.startswith('#'), file.read_text().splitlines())
    lines = [line.removeprefix('# ').removeprefix('#') for line in header]
    return ' '.join(f'`{line.strip()}`' if line.startswith('  ') else line for line in lines if line)
