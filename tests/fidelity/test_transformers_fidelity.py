"""transformers' BEiT: its folders and files in our models, our weights in its models, and back to the start.

Its segmentor takes the input of block i - 1, counted from 0, for an index i of `out_indices`: the output of block
i - 2.
"""

import json
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pytest
import support.fidelity
import torch
import transformers
from safetensors.torch import load_file
from support.fidelity import (
    assert_same,
    classifier,
    convert_to,
    draw,
    images,
    load,
    masks,
    pre_training_logits,
    pre_training_model,
    save,
    segmentation_logits,
    segmentor,
    SMALL,
)
from timm.models.beit import gen_relative_position_index
from torch import nn, Tensor
from transformers import (
    AutoModelForImageClassification,
    BeitForImageClassification,
    BeitForMaskedImageModeling,
    BeitForSemanticSegmentation,
    BeitModel,
)

from beit_mm.models import BEiT, MaskedImageModel

PIXELS, MASK = images(64), masks(4)
SEGMENTOR = {**SMALL, 'depth': 12, 'embed_dim': 32, 'num_heads': 2}
WIDE = dict(hidden_size=128, intermediate_size=512, num_attention_heads=2)

compare = partial(support.fidelity.compare, 'transformers')


def config(**options) -> transformers.BeitConfig:
    trunk = dict(hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=256, patch_size=16)
    rest = dict(image_size=64, layer_norm_eps=1e-6, use_relative_position_bias=True, num_labels=10, vocab_size=32)
    return transformers.BeitConfig(**{**trunk, **rest, **options})


class Pair(NamedTuple):
    """A model of theirs by its options, and the same of ours by those of its trunk."""

    peer: type
    options: dict
    build: Callable[..., nn.Module]
    trunk: dict = {}

    def theirs(self) -> nn.Module:
        return self.peer(config(**self.options))

    def ours(self) -> nn.Module:
        return self.build(**{**SMALL, **self.trunk})


classification = partial(Pair, BeitForImageClassification)
ten_classes = partial(classifier, num_classes=10)
SHARED = dict(use_relative_position_bias=False, use_shared_relative_position_bias=True)
POSITIONS = dict(use_absolute_position_embeddings=True)
NO_BIAS = dict(use_rel_pos_bias=False, use_abs_pos_emb=True, embed_dim=128, num_heads=2)
PAIRS = {
    'pre-training': Pair(
        BeitForMaskedImageModeling, dict(use_mask_token=True, **SHARED), partial(pre_training_model, 32)
    ),
    'trunk': Pair(BeitModel, {}, BEiT),
    'mean of the patches': classification({}, ten_classes),
    'class token': classification(dict(use_mean_pooling=False), ten_classes, dict(out_type='cls_token')),
    'absolute positions': classification(POSITIONS, ten_classes, dict(use_abs_pos_emb=True)),
    'absolute positions alone': classification(
        dict(use_relative_position_bias=False, **POSITIONS, **WIDE), ten_classes, NO_BIAS
    ),
    'no LayerScale': classification(dict(layer_scale_init_value=0.0), ten_classes, dict(layer_scale_init_value=0)),
    'shared bias': classification(SHARED, ten_classes, dict(use_rel_pos_bias=False, use_shared_rel_pos_bias=True)),
}


def open_strictly(peer: type, folder) -> nn.Module:
    """Transformers' model from a folder, which must hold all of its weights and no others."""
    model, report = peer.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    return model.eval()


def weights_of(path) -> dict:
    if path.is_dir():
        return load_file(path / 'model.safetensors')
    return torch.load(path, weights_only=True)['state_dict']


def our_logits(model: nn.Module) -> Tensor:
    if isinstance(model, MaskedImageModel):
        return pre_training_logits(model, PIXELS, MASK)
    return model(PIXELS)[0] if isinstance(model, BEiT) else model(PIXELS)


def logits_of(peer: nn.Module) -> Tensor:
    if isinstance(peer, BeitModel):
        return peer(PIXELS).pooler_output
    return peer(PIXELS, **(dict(bool_masked_pos=MASK.flatten(1)) if 'Masked' in type(peer).__name__ else {})).logits


def compare_both(how: str, ours: Tensor, peer: nn.Module) -> None:
    """With both of its ways to compute attention."""
    compare(type(peer).__name__, how, ours, logits_of(peer))
    peer.set_attn_implementation('eager')
    compare(type(peer).__name__, f'{how}, their attention written out', ours, logits_of(peer))


def auxiliary_logits(peer: BeitForSemanticSegmentation) -> Tensor:
    """Which transformers computes for the loss and does not return."""
    kept = []
    hook = peer.auxiliary_head.register_forward_hook(lambda module, inputs, logits: kept.append(logits))
    peer(PIXELS)
    hook.remove()
    return kept[0]


# Its weights in our models


@torch.no_grad()
@pytest.mark.parametrize('what', PAIRS)
def test_their_weights_give_their_outputs_in_our_model_and_are_the_same_after_a_round_trip(what, folder):
    peer, start = draw(PAIRS[what].theirs()), folder / 'start'
    peer.save_pretrained(start)
    model = load(PAIRS[what].ours(), start)
    compare_both(what, our_logits(model), peer)
    assert_names_in_memory(folder, peer, model)
    back = convert_to('transformers', convert_to('beit_mm', start, folder / 'ours.safetensors'), folder / 'back')
    assert_same(weights_of(back), weights_of(start))
    assert_same(open_strictly(type(peer), back).state_dict(), peer.state_dict())
    before, after = (json.loads((path / 'config.json').read_text()) for path in (start, back))
    differing = {name for name in after if name in before and after[name] != before[name]}
    assert differing <= {'layer_scale_init_value', 'id2label', 'label2id', 'drop_path_rate'}, differing


@torch.no_grad()
def test_their_segmentor(folder):
    trunk = dict(hidden_size=32, num_attention_heads=2, intermediate_size=128, num_hidden_layers=12)
    options = dict(num_labels=9, auxiliary_channels=16, out_indices=[3, 5, 7, 11])
    peer = draw(BeitForSemanticSegmentation(config(**trunk, **options)))
    peer.save_pretrained(folder / 'start')
    model = load(segmentor(**{**SEGMENTOR, 'out_indices': [1, 3, 5, 9]}), folder / 'start')
    logits, auxiliary = segmentation_logits(model, PIXELS)
    compare('BeitForSemanticSegmentation', 'blocks 1, 3, 5, 9, auxiliary head', auxiliary, auxiliary_logits(peer))
    compare_both('blocks 1, 3, 5, 9', logits, peer)
    assert_names_in_memory(folder, peer, model)

    ours = convert_to('beit_mm', folder / 'start', folder / 'ours.pth')
    back = weights_of(convert_to('transformers', ours, folder / 'back', out_indices=[1, 3, 5, 9]))
    padding = {name: back.pop(name) for name in list(back) if '.layer.12.' in name}
    assert_same(back, weights_of(folder / 'start'))
    assert padding and not any(tensor.any() for tensor in padding.values())
    again = open_strictly(BeitForSemanticSegmentation, folder / 'back')
    again.set_attn_implementation('eager')
    assert torch.equal(again(PIXELS).logits, peer(PIXELS).logits)


def assert_names_in_memory(folder, peer: nn.Module, model: nn.Module) -> None:
    """Version 5 has other names in memory than in its files; they load alike."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.save(peer.state_dict(), folder / 'memory.pth')
    assert_same(load(model, folder / 'memory.pth').state_dict(), before)


@torch.no_grad()
@pytest.mark.parametrize('form', ['pytorch_model.bin', 'pytorch_model.bin in a folder', 'shards'])
def test_forms_of_its_files(form, folder):
    """Older versions wrote the files' names with torch.save, and the index, which newer versions leave out."""
    peer = draw(PAIRS['mean of the patches'].theirs())
    peer.save_pretrained(folder, max_shard_size='100KB' if form == 'shards' else '1GB')
    path = folder
    if form == 'shards':
        assert len(list(folder.glob('*.safetensors'))) > 1
    else:
        weights, index = weights_of(folder), gen_relative_position_index((4, 4))
        tables = [name for name in weights if name.endswith('bias_table')]
        weights.update({name.replace('bias_table', 'index'): index.clone() for name in tables})
        torch.save(weights, folder / 'pytorch_model.bin')
        (folder / 'model.safetensors').unlink()
        path = folder if 'folder' in form else folder / 'pytorch_model.bin'
    model = load(PAIRS['mean of the patches'].ours(), path)
    compare('BeitForImageClassification', form, model(PIXELS), peer(PIXELS).logits)


@pytest.mark.parametrize('names', ['in files', 'in memory'])
def test_a_trunk_with_a_norm_too_many_is_refused(names, folder):
    """Without mean pooling its pre-training model has two norms in a row; ours and the release's have one."""
    pair = PAIRS['pre-training']
    peer = draw(pair.peer(config(**pair.options, use_mean_pooling=False)))
    path = folder if names == 'in files' else folder / 'model.pth'
    peer.save_pretrained(path) if names == 'in files' else torch.save(peer.state_dict(), path)
    with pytest.raises(ValueError, match='norm'):
        load(pair.ours(), path)


# Our weights in its models


def open_ours(peer: type, model: nn.Module, folder, **options) -> nn.Module:
    """Our weights in its model. The folder back in our layout is our model's file, saved anew by transformers, too."""
    theirs = convert_to('transformers', save(folder / 'ours.pth', model), folder / 'theirs', **options)
    opened = open_strictly(peer, theirs)
    type(opened).from_pretrained(theirs).save_pretrained(folder / 'again')
    for source in ('theirs', 'again'):
        back = convert_to('beit_mm', folder / source, folder / f'{source}.pth')
        assert_same(weights_of(back), model.state_dict())
        again = convert_to('transformers', back, folder / f'{source} once more', **options)
        assert_same(weights_of(again), weights_of(folder / source))
    return opened


@torch.no_grad()
@pytest.mark.parametrize('what', PAIRS)
def test_our_weights_give_our_outputs_in_their_model_and_are_the_same_after_a_round_trip(what, folder):
    pair, model = PAIRS[what], draw(PAIRS[what].ours())
    is_classifier = pair.peer is BeitForImageClassification
    peer = open_ours(AutoModelForImageClassification if is_classifier else pair.peer, model, folder)
    assert type(peer) is pair.peer
    compare(pair.peer.__name__, f'{what}, our weights in theirs', logits_of(peer), our_logits(model))


@torch.no_grad()
@pytest.mark.parametrize(
    'options, auxiliary',
    [
        ({}, {}),  # the release's [3, 5, 7, 11]
        (dict(out_indices=[0, 4, 10, 11]), {}),
        ({}, None),
        ({}, dict(num_convs=2, concat_input=True, channels=24)),
        ({}, dict(num_convs=2)),
    ],
)
def test_our_segmentation_weights(options, auxiliary, folder):
    model = draw(segmentor(auxiliary=auxiliary, **SEGMENTOR, **options))
    if auxiliary is None:
        del model.auxiliary_head
    peer = open_ours(BeitForSemanticSegmentation, model, folder, **options)
    features, how = model.extract_feat(PIXELS), f'our weights in theirs, {options}, auxiliary head {auxiliary}'
    compare(type(peer).__name__, how, logits_of(peer), model.decode_head(features))
    assert len(peer.beit.layers) == 13
    if auxiliary is None:
        assert peer.auxiliary_head is None
    else:
        compare(type(peer).__name__, f'{how}, its logits', auxiliary_logits(peer), model.auxiliary_head(features))
