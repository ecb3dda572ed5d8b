"""Classification, transfer and layer decay against the release."""

import json
from pathlib import Path

import pytest
from mmpretrain.models import ImageClassifier

from beit_mm.engine.optimizers.constructors import LayerDecayOptimWrapperConstructor
from beit_mm.models.backbones.relative_position import expand_bias

DATA = Path(__file__).parent / 'data'


def classifier(config: dict) -> ImageClassifier:
    backbone = dict(
        type='beit_mm.BEiT',
        img_size=config['img_size'],
        embed_dim=config['embed_dim'],
        depth=config['depth'],
        num_heads=config['num_heads'],
        layer_scale_init_value=config['init_values'],
    )
    head = dict(type='LinearClsHead', num_classes=config['num_classes'], in_channels=config['embed_dim'])
    return ImageClassifier(backbone, head=head).eval()


def full_names(weights: dict) -> dict:
    """The release's names under our model's."""
    return {
        name.replace('head.', 'head.fc.') if name.startswith('head.') else f'backbone.{name}': tensor
        for name, tensor in weights.items()
    }


def test_finetune_forward(reference, relative_error):
    file = reference('finetune_forward.npz')
    model = classifier(file.config)
    model.load_state_dict(full_names(file.weights()), strict=True)
    assert relative_error(model(file['x']), file['logits']) < 1e-5


def test_transfer_from_pretraining_to_a_larger_image(reference):
    """The shared table is copied to every block and resized from 4 x 4 to 6 x 6 patches by loading alone."""
    file = reference('transfer.npz')
    model = classifier(file.config)
    model.load_state_dict(full_names(reference('mim_forward.npz').weights()), strict=False)
    given = file.weights()
    model.load_state_dict(
        full_names(
            {**model.backbone.state_dict(), **{name: tensor for name, tensor in given.items() if 'table' not in name}}
        )
    )
    tables = [name for name in given if name.endswith('relative_position_bias_table')]
    assert len(tables) == file.config['depth']
    for name in tables:
        assert (model.backbone.state_dict()[name] - given[name]).abs().max() < 1e-4, name
    assert (model(file['x']) - file['logits']).abs().max() < 1e-4


@pytest.mark.parametrize('size', [20, 24, 32, 40])
def test_bias_resize(reference, size):
    file = reference('bias_resize.npz')
    resized = expand_bias(file[f'source_14_to_{size}'], (14, 14), (size, size))
    assert (resized - file[f'result_14_to_{size}']).abs().max() < 1e-5


def test_layer_decay_groups(reference):
    expected = json.loads((DATA / 'layer_decay_groups.json').read_text())
    model = classifier(reference('finetune_forward.npz').config)
    wrapper = LayerDecayOptimWrapperConstructor(
        dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=2.0, weight_decay=0.05)), dict(layer_decay_rate=0.65)
    )(model)
    groups = wrapper.optimizer.param_groups
    found = {id(p): group for group in groups for p in group['params']}
    seen = 0
    for name, parameter in model.named_parameters():
        name = name.removeprefix('backbone.').replace('head.fc.', 'head.')
        assert found[id(parameter)]['lr'] / 2.0 == pytest.approx(expected[name]['lr_scale']), name
        assert found[id(parameter)]['weight_decay'] == pytest.approx(expected[name]['weight_decay']), name
        seen += 1
    assert seen == len(expected)
    # One group per layer and decay: embeddings, three blocks, and what is above them.
    assert len(groups) == 2 * 5
    assert sum(len(group['params']) for group in groups) == len(list(model.parameters()))
