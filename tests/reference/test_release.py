"""Models, masks and optimizers against numbers that the released implementations printed."""

import gzip
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from mmpretrain.models import ImageClassifier
from mmseg.models import build_segmentor
from torch import nn, Tensor

from beit_mm.checkpoint import read_checkpoint
from beit_mm.datasets import BlockwiseMaskGenerator
from beit_mm.engine import LayerDecayOptimWrapperConstructor
from beit_mm.models import BEiT, DiscreteVAE, MaskedImageModel, VisualTokens
from beit_mm.models.backbones.relative_position import expand_bias

DATA = Path(__file__).parent / 'data'
# The release's names of the constructor's arguments, where they are not ours.
ARGUMENTS = dict(init_values='layer_scale_init_value')
TRUNK = ('img_size', 'patch_size', 'embed_dim', 'depth', 'num_heads', 'init_values', 'out_indices')


class Reference:
    """Arrays of a file as tensors; its `weight/` names are `weights`."""

    def __init__(self, name: str):
        self.arrays = np.load(DATA / name, allow_pickle=False)
        self.config = json.loads(str(self.arrays['config'])) if 'config' in self.arrays.files else {}
        self.weights = {name: self[f'weight/{name}'] for name in self.names('weight/')}
        self.trunk = {ARGUMENTS.get(name, name): self.config[name] for name in TRUNK if name in self.config}

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(np.asarray(self.arrays[name]))

    def names(self, prefix: str) -> list[str]:
        return [name.removeprefix(prefix) for name in self.arrays.files if name.startswith(prefix)]


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Largest difference over the expected tensor's largest magnitude."""
    return float((actual.detach() - expected).abs().max() / expected.abs().max())


# Pre-training


class ViewsAsTokens(nn.Module):
    vocab_size = 96

    def encode(self, views):
        return views


@pytest.fixture
def pre_training() -> tuple[MaskedImageModel, Reference]:
    file = Reference('mim_forward.npz')
    biases = dict(use_rel_pos_bias=False, use_shared_rel_pos_bias=True)
    trunk = BEiT(**file.trunk, **biases, use_mask_token=True, out_type='raw')
    model = MaskedImageModel(trunk, VisualTokens(ViewsAsTokens()))
    weights = {name if name.startswith('lm_head') else f'backbone.{name}': x for name, x in file.weights.items()}
    model.load_state_dict(weights, strict=True)
    return model, file


def grids(mask: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    return mask.unflatten(1, (4, 4)), tokens.unflatten(1, (4, 4))


def test_logits_loss_and_gradients_of_pre_training(pre_training):
    model, file = pre_training
    mask, tokens = grids(file['mask'], file['token_ids'])
    assert relative_error(model(file['x'], mask=mask, mode='outputs'), file['masked_logits']) < 1e-5
    loss = model.loss(file['x'], tokens, mask)['loss']
    loss.backward()
    assert relative_error(loss, file['loss']) < 1e-5
    parameters = {name.removeprefix('backbone.'): parameter for name, parameter in model.named_parameters()}
    names = file.names('grad/')
    assert len(names) > 30
    for name in names:
        assert relative_error(parameters[name].grad, file[f'grad/{name}']) < 1e-5, name
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9)
    assert relative_error(norm, file['grad_norm']) < 1e-5


def test_twenty_steps_of_pre_training(pre_training):
    model, file = pre_training[0], Reference('mim_trajectory.npz')
    hyper = json.loads(str(file.arrays['hyper']))
    optimizer = dict(type='AdamW', lr=1.0, **{name: hyper[name] for name in ('betas', 'eps', 'weight_decay')})
    clip_grad = dict(max_norm=hyper['clip_grad_norm'])
    wrapper = LayerDecayOptimWrapperConstructor(
        dict(type='beit_mm.AutocastOptimWrapper', optimizer=optimizer, clip_grad=clip_grad)
    )(model)
    for step in range(20):
        for group in wrapper.optimizer.param_groups:
            group['lr'] = float(file['lr'][step])
        mask, tokens = grids(file['mask'][step], file['token_ids'][step])
        loss = model.loss(file['x'][step], tokens, mask)['loss']
        wrapper.update_params(loss)
        wrapper.scalars.flush(wrapper.message_hub)
        norm = wrapper.message_hub.get_scalar('train/grad_norm').current()
        assert abs(loss.item() / float(file['loss'][step]) - 1) < 1e-4, step
        assert abs(norm / float(file['grad_norm'][step]) - 1) < 1e-4, step


def test_statistics_of_blockwise_masks():
    """Against 40,000 masks of the release."""
    expected = json.loads((DATA / 'block_mask_statistics.json').read_text())
    sizes = dict(num_masked=expected['num_masking_patches'], min_block_size=expected['min_num_patches'])
    generator = BlockwiseMaskGenerator(grid=expected['grid'], **sizes)
    random.seed(0)
    masks = np.stack([generator.generate() for _ in range(100_000)])
    assert (masks.sum(axis=(1, 2)) == 75).all()

    def over_flips(table: np.ndarray) -> np.ndarray:
        return (table + table[::-1] + table[:, ::-1] + table[::-1, ::-1]) / 4

    wanted = over_flips(np.array(expected['position_probability_full_count_only']))
    assert np.abs(over_flips(masks.mean(axis=0)) - wanted).max() < 0.008
    agreement = (masks[:, :, 1:] == masks[:, :, :-1]).mean()
    assert abs(agreement - expected['horizontal_neighbour_agreement']) < 0.01


# Classification


def classifier(file: Reference) -> ImageClassifier:
    head = dict(type='LinearClsHead', num_classes=file.config['num_classes'], in_channels=file.config['embed_dim'])
    return ImageClassifier(dict(type='beit_mm.BEiT', **file.trunk), head=head).eval()


def names_in_classifier(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.replace('head.', 'head.fc.') if name.startswith('head.') else f'backbone.{name}': tensor
        for name, tensor in weights.items()
    }


def test_logits_of_a_classifier():
    file = Reference('finetune_forward.npz')
    model = classifier(file)
    model.load_state_dict(names_in_classifier(file.weights), strict=True)
    assert relative_error(model(file['x']), file['logits']) < 1e-5


def test_transfer_from_pre_training_to_a_larger_image():
    """Loading copies the shared table to every block and resizes it from 4 x 4 to 6 x 6 patches."""
    file = Reference('transfer.npz')
    model = classifier(file)
    model.load_state_dict(names_in_classifier(Reference('mim_forward.npz').weights), strict=False)
    tables = {name: file.weights.pop(name) for name in list(file.weights) if 'table' in name}
    assert len(tables) == file.config['depth']
    for name, table in tables.items():
        assert (model.backbone.state_dict()[name] - table).abs().max() < 1e-4, name
    model.load_state_dict(names_in_classifier({**model.backbone.state_dict(), **file.weights}))
    assert (model(file['x']) - file['logits']).abs().max() < 1e-4


@pytest.mark.parametrize('size', [20, 24, 32, 40])
def test_resized_bias_tables(size):
    file = Reference('bias_resize.npz')
    resized = expand_bias(file[f'source_14_to_{size}'], (14, 14), (size, size))
    assert (resized - file[f'result_14_to_{size}']).abs().max() < 1e-5


def test_groups_of_layer_decay():
    expected = json.loads((DATA / 'layer_decay_groups.json').read_text())
    model = classifier(Reference('finetune_forward.npz'))
    optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=2.0, weight_decay=0.05))
    groups = LayerDecayOptimWrapperConstructor(optim_wrapper, dict(layer_decay_rate=0.65))(model).optimizer.param_groups
    names = {id(p): name for name, p in model.named_parameters()}
    found = {
        names[id(parameter)].removeprefix('backbone.').replace('head.fc.', 'head.'): dict(
            lr_scale=group['lr'] / 2.0, weight_decay=group['weight_decay']
        )
        for group in groups
        for parameter in group['params']
    }
    assert found.keys() == expected.keys()
    for name, values in found.items():
        assert values == pytest.approx({key: expected[name][key] for key in values}), name
    # One group per layer and decay: embeddings, three blocks, and what is above them.
    assert len(groups) == 2 * 5 and sum(len(group['params']) for group in groups) == len(names)


# Segmentation


def test_features_and_logits_of_a_segmentor():
    file = Reference('segmentation_forward.npz')
    width, num_classes, norm = file.config['embed_dim'], file.config['num_classes'], dict(type='BN')
    head = dict(num_classes=num_classes, norm_cfg=norm)
    decode_head = dict(in_channels=[width] * 4, in_index=[0, 1, 2, 3], channels=file.config['channels'])
    auxiliary_head = dict(in_channels=width, in_index=2, channels=file.config['aux_channels'], num_convs=1)
    model = build_segmentor(
        dict(
            type='EncoderDecoder',
            backbone=dict(type='beit_mm.BEiT', **file.trunk, out_type='featmap'),
            neck=dict(type='Feature2Pyramid', embed_dim=width, norm_cfg=norm),
            decode_head=dict(type='beit_mm.UperNetHead', **decode_head, **head),
            auxiliary_head=dict(type='FCNHead', concat_input=False, **auxiliary_head, **head),
            test_cfg=dict(mode='whole'),
        )
    ).eval()
    neck = {'backbone.fpn1': 'neck.upsample_4x', 'backbone.fpn2': 'neck.upsample_2x'}
    weights = {neck.get(name[:13], name[:13]) + name[13:]: tensor for name, tensor in file.weights.items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and all(name.endswith('num_batches_tracked') for name in missing)
    with torch.no_grad():
        features = model.extract_feat(file['x'])
        for index, feature in enumerate(features):
            assert relative_error(feature, file[f'feature_{index}']) < 1e-5, index
        assert relative_error(model.decode_head(features), file['decode_logits']) < 1e-5
        assert relative_error(model.auxiliary_head(features), file['auxiliary_logits']) < 1e-5


# Tokenizer


@torch.no_grad()
def test_tokens_logits_and_reconstruction_of_the_tokenizer(tmp_path):
    """From OpenAI's own pickled files, both or the encoder's alone, which is enough to encode."""
    file, state = Reference('tokenizer_forward.npz'), {}
    sizes = {name: file.config[name] for name in ('vocab_size', 'n_hid', 'n_init', 'blocks_per_group')}
    for name in ('encoder', 'decoder'):
        path = tmp_path / f'{name}.pkl'
        path.write_bytes(gzip.decompress((DATA / f'dalle_{name}.pkl.gz').read_bytes()))
        state |= read_checkpoint(str(path))['state_dict']
    model = DiscreteVAE(**sizes).eval()
    model.load_state_dict(state, strict=True)
    logits, tokens = model.encode_logits(file['image']), model.encode(file['image'])
    assert relative_error(logits[:, :, 0, 0], file['logits_first_position']) < 1e-5
    assert torch.equal(tokens, file['token_ids'])
    assert (model.decode(tokens) - file['reconstruction']).abs().max() < 1e-4

    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'encoder.pkl'))
    encoder_alone = DiscreteVAE(**sizes, init_cfg=init_cfg)
    encoder_alone.init_weights()
    assert torch.equal(encoder_alone.encode(file['image']), file['token_ids'])
