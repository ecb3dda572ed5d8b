"""Every recipe builds all its parts; sizes, classes and headers are those of the sources."""

import re

import pytest
import torch
from mmcv.transforms import Compose, LoadAnnotations
from mmengine.registry import DATASETS, HOOKS, METRICS
from mmseg.datasets.transforms import LoadAnnotations as SegLoadAnnotations
from support.recipe_table import NAMES, TOKENIZERS_V2
from support.recipe_table import RECIPES as TABLE
from support.recipes import build_schedules, count_parameters, header, load, meta_model, optim_wrapper, RECIPES

# Width, blocks, heads, initial LayerScale.
SIZES = dict(tiny=(192, 12, 3, 0.1), small=(384, 12, 6, 0.1), base=(768, 12, 12, 0.1), large=(1024, 24, 16, 1e-5))
MILLIONS = {
    'beit_finetune.py': 86.53,
    'classify/beit_base_384_ft1k_to_1k.py': 86.74,
    'classify/beit_base_224_22k_to_1k.py': 86.53,
    'classify/beit_base_384_22k_to_1k.py': 86.74,
    'classify/beit_large_224_22k_to_1k.py': 304.43,
    'classify/beit_large_384_22k_to_1k.py': 305.00,
    'classify/beit_large_512_22k_to_1k.py': 305.67,
    # With the auxiliary head.
    'segment/beit_base_640_ft22k_to_ade20k.py': 163.41,
    'segment/beit_large_640_ft22k_to_ade20k.py': 441.27,
}


def find(registry, name: str):
    """The class that a name means in the default scope."""
    with registry.switch_scope_and_registry(None) as scoped:
        return scoped.get(name)


@pytest.mark.parametrize('name', RECIPES)
def test_every_part_builds(name):
    cfg = load(name)
    assert cfg.custom_imports.imports == ['beit_mm']
    for key in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        if cfg.get(key):
            dataset = cfg[key].dataset
            assert find(DATASETS, dataset.type) is not None
            steps = Compose(dataset.pipeline).transforms
            assert len(steps) == len(dataset.pipeline)
            assert not any(type(step) in (LoadAnnotations, SegLoadAnnotations) for step in steps), 'takes wrong labels'
    if 'tta_pipeline' in cfg:
        assert Compose(cfg.tta_pipeline).transforms
        assert "'LoadAnnotations'" not in str(cfg.tta_pipeline)
    is_fused = optim_wrapper(name)._skips_on_device  # else every update waits for the device
    assert is_fused or cfg.model.type == 'beit_mm.KMeansTokenizer'
    groups = optim_wrapper(name).optimizer.param_groups
    trainable = [parameter for parameter in meta_model(name).parameters() if parameter.requires_grad]
    assert sum(len(group['params']) for group in groups) == len(trainable)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    assert build_schedules(cfg.param_scheduler, optimizer, epoch_length=10)
    for hook in [*cfg.default_hooks.values(), *cfg.get('custom_hooks', [])]:
        assert find(HOOKS, hook.type) is not None, hook.type
    for evaluator in ('val_evaluator', 'test_evaluator'):
        if cfg.get(evaluator):
            assert find(METRICS, cfg[evaluator].type) is not None
    assert {'LocalVisBackend', 'TensorboardVisBackend'} == {backend.type for backend in cfg.visualizer.vis_backends}


@pytest.mark.parametrize('name', RECIPES)
def test_header_says_what_how_on_what_and_how_good(name):
    text = header(name)
    assert re.match(r'# [A-Z].{20}', text)
    assert re.search(rf'^#   (tools/dist_train\.sh|python tools/train\.py) configs/{re.escape(name)}\b', text, re.M)
    assert re.search(r'\b[1-9]\d* (GPUs?|process(es)?) x [1-9]\d* images?\b', text)
    published = re.search(r'Published.* \d\d\.\d+ % (top-1|mIoU)', text, re.S)
    assert published or re.search('(no|without a) published score', text, re.I)
    assert not published or re.search('arXiv|release|model zoo', text)
    if name in TABLE:
        gpus, images, accumulated = TABLE[name].hardware
        assert f'{gpus} GPUs x {images} image{"s" if images > 1 else ""}' in text
        assert (f'{accumulated} steps accumulated' in text) == (accumulated > 1)
        assert (TABLE[name].score or 'No published score') in text


def test_the_table_has_every_recipe_with_published_settings():
    ours = {'beit_tokenizer.py', 'pretrain/beit_tiny_own_data.py', 'pretrain/beit_small_own_data.py', *TOKENIZERS_V2}
    actual = {name for name in RECIPES if re.match('beit_|pretrain/|(segment|classify)/beit', name)}
    assert set(NAMES) == actual and set(TABLE) == actual - ours
    stages = ('tokenizer', 'pretrain', 'finetune', 'segment', 'v2/tokenizer', 'v2/pretrain', 'v2/finetune')
    assert {f'demo/{stage}.py' for stage in stages} < set(RECIPES)


@pytest.mark.parametrize('name', MILLIONS)
def test_parameters_are_as_many_as_published(name):
    assert count_parameters(name) / 1e6 == pytest.approx(MILLIONS[name], abs=0.005)


def test_tokenizer_and_output_layer_have_the_sizes_of_openais():
    model = meta_model('beit_pretrain.py')
    assert model.lm_head.out_features == 8192
    # 53.8 M in OpenAI's encoder, as computed from its layout.
    encoder = sum(parameter.numel() for parameter in model.target.tokenizer.encoder.parameters())
    assert encoder / 1e6 == pytest.approx(53.8, abs=0.1)


@pytest.mark.parametrize('name', [name for name in NAMES if 'tokenizer' not in name])
def test_the_model_is_what_the_name_says(name):
    cfg = load(name)
    model, trunk = cfg.model, cfg.model.backbone
    size = next((size for size in SIZES if f'_{size}_' in name), 'base')
    width, depth, heads, layer_scale = SIZES[size]
    if re.match('segment/beitv2_large', name):
        layer_scale = 1e-6
    assert (trunk.embed_dim, trunk.depth, trunk.num_heads) == (width, depth, heads)
    assert trunk.layer_scale_init_value == (0 if 'absolute' in name else layer_scale)
    if 'segment' in name:  # from 1: 4, 6, 8, 12 and 8, 12, 16, 24
        assert trunk.out_indices == ([7, 11, 15, 23] if size == 'large' else [3, 5, 7, 11])
    elif 'pretrain' in name:
        masks = 'beit_mm.RandomMaskGenerator' if 'random_masks' in name else 'beit_mm.BlockwiseMaskGenerator'
        assert [step.type for step in cfg.train_dataloader.dataset.pipeline if 'Mask' in step.type] == [masks]
        assert model.target.type == ('beit_mm.NormalisedPixels' if 'pixels' in name else 'beit_mm.VisualTokens')
        early = dict(early_layers=21 if size == 'large' else 9, head_layers=2, shared_head=True)
        assert model.get('bottleneck') == (early if 'v2' in name else None)
        masked = dict(type='beit_mm.MaskedPatches', num_masked=75)
        assert model.recovered == (dict(type='beit_mm.AllPatches') if 'all_tokens' in name else masked)
        assert trunk.get('use_abs_pos_emb', False) == ('absolute' in name)
        assert (trunk.use_rel_pos_bias, trunk.use_shared_rel_pos_bias) == (False, 'absolute' not in name)
    else:
        expected = 100 if 'cifar' in name else 21841 if re.search('to_2[12]k', name) else 1000
        assert model.head.num_classes == model.data_preprocessor.num_classes == expected
