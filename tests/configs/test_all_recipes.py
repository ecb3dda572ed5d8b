"""What every recipe says in its header, and the size of its model."""

import re

import pytest
from support import CONFIGS
from support.recipe_table import NAMES
from support.recipe_table import RECIPES as TABLE
from support.recipes import load, millions, on_meta, RECIPES

# Width, blocks, heads, initial LayerScale.
SIZES = dict(tiny=(192, 12, 3, 0.1), small=(384, 12, 6, 0.1), base=(768, 12, 12, 0.1), large=(1024, 24, 16, 1e-5))


def header_of(name: str) -> str:
    lines = (CONFIGS / name).read_text().splitlines()
    return '\n'.join(lines[: next(index for index, line in enumerate(lines) if not line.startswith('#'))])


@pytest.mark.parametrize('name', RECIPES)
def test_header_says_what_how_on_what_and_how_good(name):
    header = header_of(name)
    assert re.match(r'# [A-Z].{20}', header)
    assert re.search(rf'^#   (tools/dist_train\.sh|python tools/train\.py) configs/{re.escape(name)}\b', header, re.M)
    assert re.search(r'\b[1-9]\d* (GPUs?|process(es)?) x [1-9]\d* images?\b', header)
    published = re.search(r'Published.* \d\d\.\d+ % (top-1|mIoU)', header, re.S)
    assert published or re.search('(no|without a) published score', header, re.I)
    assert not published or re.search('arXiv|release|model zoo', header)


@pytest.mark.parametrize('name', TABLE)
def test_header_has_the_hardware_and_the_score_of_the_table(name):
    header, recipe = header_of(name), TABLE[name]
    gpus, images, accumulated = recipe.hardware
    assert f'{gpus} GPUs x {images} image{"s" if images > 1 else ""}' in header
    assert (f'{accumulated} steps accumulated' in header) == (accumulated > 1)
    assert (recipe.score or 'No published score') in header


def test_the_table_has_every_recipe_with_published_settings():
    found = {name for name in RECIPES if re.match('beit_|pretrain/|segment/|classify/beit_', name)}
    assert set(NAMES) == found
    assert set(TABLE) == found - {
        'beit_tokenizer.py',
        'pretrain/beit_tiny_own_data.py',
        'pretrain/beit_small_own_data.py',
    }


@pytest.mark.parametrize(
    'name, published',
    {
        'beit_finetune.py': 86.53,
        'classify/beit_base_384_ft1k_to_1k.py': 86.74,
        'classify/beit_large_224_pt22k_to_1k.py': 304.43,
        'classify/beit_large_384_ft1k_to_1k.py': 305.00,
        'classify/beit_large_512_22k_to_1k.py': 305.67,
        # With the auxiliary head.
        'segment/beit_base_640_ft22k_to_ade20k.py': 163.41,
        'segment/beit_large_640_ft22k_to_ade20k.py': 441.27,
    }.items(),
)
def test_parameters_are_as_many_as_published(name, published):
    assert millions(on_meta(load(name))) == pytest.approx(published, abs=0.005)


@pytest.mark.parametrize('name', [name for name in NAMES if 'tokenizer' not in name])
def test_trunk_has_the_size_in_the_name(name):
    trunk = load(name).model.backbone
    size = next((size for size in SIZES if f'_{size}_' in name), 'base')
    width, depth, heads, layer_scale = SIZES[size]
    assert (trunk.embed_dim, trunk.depth, trunk.num_heads) == (width, depth, heads)
    assert trunk.layer_scale_init_value == (0 if 'absolute' in name else layer_scale)
    if 'segment' in name:  # from 1: 4, 6, 8, 12 and 8, 12, 16, 24
        assert trunk.out_indices == ([7, 11, 15, 23] if size == 'large' else [3, 5, 7, 11])


@pytest.mark.parametrize('name', [name for name in NAMES if 'classify' in name or 'finetune' in name])
def test_classifier_has_the_classes_of_its_data(name):
    model = load(name).model
    expected = 100 if 'cifar' in name else 21841 if 'to_22k' in name else 1000
    assert model.head.num_classes == model.data_preprocessor.num_classes == expected


@pytest.mark.parametrize('name', [name for name in NAMES if 'pretrain' in name])
def test_pre_training_recovers_what_the_name_says(name):
    cfg = load(name)
    parts = {transform.type for transform in cfg.train_dataloader.dataset.pipeline}
    assert ('beit_mm.RandomMaskGenerator' in parts) == ('random_masks' in name)
    assert ('beit_mm.BlockwiseMaskGenerator' in parts) == ('random_masks' not in name)
    assert cfg.model.target.type == ('beit_mm.NormalisedPixels' if 'pixels' in name else 'beit_mm.VisualTokens')
    assert cfg.model.recovered == (
        dict(type='beit_mm.AllPatches') if 'all_tokens' in name else dict(type='beit_mm.MaskedPatches', num_masked=75)
    )
    trunk = cfg.model.backbone
    assert trunk.get('use_abs_pos_emb', False) == ('absolute' in name)
    assert (trunk.use_rel_pos_bias, trunk.use_shared_rel_pos_bias) == (False, 'absolute' not in name)
