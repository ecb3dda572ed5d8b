"""tools/misc/print_config.py: copies of configs that stand alone."""

import shutil
from pathlib import Path

import pytest
from mmengine.config import Config
from support import ROOT
from support.project import CONFIGS
from support.tools import run_here

from beit_mm.config.flatten import flatten, registered_name, write

# One of every folder.
RECIPES = {path.parent: path for path in sorted(CONFIGS.rglob('*.py')) if '_base_' not in path.parts}.values()
SEGMENTOR = CONFIGS / 'demo' / 'segment.py'
TOOL = ROOT / 'tools' / 'misc' / 'print_config.py'


@pytest.mark.parametrize('path', RECIPES, ids=lambda path: path.relative_to(CONFIGS).as_posix())
def test_copy_of_a_recipe_says_the_same_without_bases(path, tmp_path):
    write(flatten(path), tmp_path / 'copy.py', 'A copy.')
    text = (tmp_path / 'copy.py').read_text()
    assert text.startswith('# A copy.\n') and '_base_ =' not in text and '_base_=' not in text
    assert Config.fromfile(tmp_path / 'copy.py').to_dict() == Config.fromfile(path).to_dict()


def test_classes_become_the_names_that_inferencers_look_for(tmp_path):
    """The test project's config in MMEngine's pure-Python style, with its base in the same folder."""
    write(flatten(SEGMENTOR), tmp_path / 'flat_segment.py', 'The base.')
    flat = flatten(shutil.copy(Path(__file__).parent / 'project' / 'configs' / 'pure_python.py', tmp_path))
    assert (flat.model.type, flat.model.backbone.type) == ('EncoderDecoder', 'beit_mm.BEiT')
    assert [step.type for step in flat.test_pipeline] == ['LoadImageFromFile', 'LoadAnnotations', 'PackSegInputs']
    assert flat.model.backbone.embed_dim == 32
    write(flat, tmp_path / 'copy.py', 'A copy.')
    assert Config.fromfile(tmp_path / 'copy.py').to_dict() == flat.to_dict()
    with pytest.raises(ValueError, match='own.py needs, cannot be read: .*inheritance chain'):
        flatten_text(tmp_path, "_base_ = 'pure_python.py'\n")


def flatten_text(folder: Path, text: str, options: dict | None = None) -> Config:
    (folder / 'own.py').write_text(text)
    return flatten(folder / 'own.py', options)


@pytest.mark.parametrize(
    'text, imports',
    [
        ('from beit_mm.models import BEiT\nmodel = dict(type=BEiT)', ['beit_mm']),
        ("custom_imports = dict(imports='json')\nmodel = dict(type='beit_mm.BEiT')", ['json', 'beit_mm']),
    ],
)
def test_our_package_is_imported(text, imports, tmp_path):
    flat = flatten_text(tmp_path, text)
    assert flat.model.type == 'beit_mm.BEiT' and flat.custom_imports.imports == imports


@pytest.mark.parametrize(
    'path, scope, name',
    [
        ('mmseg.models.EncoderDecoder', 'mmseg', 'EncoderDecoder'),
        ('mmseg.models.EncoderDecoder', 'mmpretrain', 'mmseg.models.EncoderDecoder'),
        # Both hosts have one; MMCV's is behind MMSegmentation's own.
        ('mmpretrain.models.CrossEntropyLoss', 'mmseg', 'mmpretrain.models.CrossEntropyLoss'),
        ('mmcv.transforms.LoadAnnotations', 'mmseg', 'mmcv.transforms.LoadAnnotations'),
        ('mmcv.transforms.LoadAnnotations', 'mmpretrain', 'LoadAnnotations'),
        ('mmengine.hooks.EMAHook', None, 'EMAHook'),
        ('beit_mm.models.backbones.beit.BEiT', 'mmseg', 'beit_mm.BEiT'),
        ('collections.OrderedDict.fromkeys', 'mmseg', 'collections.OrderedDict.fromkeys'),
        ('no_such_package.module.Name', 'mmseg', 'no_such_package.module.Name'),
    ],
)
def test_name_of_a_class(path, scope, name):
    assert registered_name(path, scope) == name


def test_options_override_and_the_scope_of_another_package_stays(tmp_path):
    text = "model = dict(type='ReLU', _scope_='mmpretrain', sizes=[1, 2])\n"
    model = dict(type='ReLU', _scope_='mmpretrain', sizes=[5])
    assert flatten_text(tmp_path, text, {'model.sizes': [5]}).model == model
    with pytest.raises(ValueError, match=r'options must name keys of .*own.py, got modle.sizes'):
        flatten_text(tmp_path, text, {'modle.sizes': 5})


def test_what_cannot_be_written_is_refused_and_nothing_is_overwritten(tmp_path):
    (tmp_path / 'copy.py').write_text('a = 1\n')
    for value in (max, float('inf')):
        with pytest.raises(ValueError, match='a config must hold numbers, texts, lists and dicts, got'):
            write(Config(dict(a=value)), tmp_path / 'new.py', 'A copy.')
    with pytest.raises(FileExistsError, match='copy.py exists and is not overwritten'):
        write(Config(dict(a=2)), tmp_path / 'copy.py', 'A copy.')
    with pytest.raises(ValueError, match='written to a .py file, got .*copy.json'):
        write(Config(dict(a=2)), tmp_path / 'copy.json', 'A copy.')
    assert [path.read_text() for path in tmp_path.iterdir()] == ['a = 1\n']


def test_tool_writes_a_copy_or_ends_in_one_sentence(tmp_path, capsys):
    copy = tmp_path / 'copy.py'
    run_here([TOOL, SEGMENTOR, '--out', copy, '--cfg-options', 'work_dir=elsewhere'])
    assert Config.fromfile(copy).work_dir == 'elsewhere'
    assert copy.read_text().startswith(f'# {SEGMENTOR}, without its bases')
    with pytest.raises(SystemExit, match='1'):
        run_here([TOOL, 'nowhere.py'])
    assert 'error: no config file at nowhere.py; it was looked for in' in capsys.readouterr().err


@pytest.mark.long
def test_tool_prints_nothing_but_the_config(flat_copy):
    """The hosts print while they are imported; a shell that redirects the output gets a config all the same."""
    assert flat_copy.read_text() == flatten(SEGMENTOR).pretty_text
