"""transformers' BEiT: its folders and files in our models, our weights in its models, and back to the start.

Its segmentor takes the input of block i - 1, counted from 0, for an index i of `out_indices`: the output of block
i - 2.
"""

import json
from functools import partial

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
from transformers import (
    AutoModelForImageClassification,
    BeitForImageClassification,
    BeitForMaskedImageModeling,
    BeitForSemanticSegmentation,
    BeitModel,
)

from beit_mm.models import BEiT

PIXELS, MASK = images(64), masks(4)
NO_BIAS = dict(use_rel_pos_bias=False, use_abs_pos_emb=True, embed_dim=128, num_heads=2)
CLASSIFIERS = {  # transformers' options, ours
    'mean of the patches': ({}, {}),
    'class token': (dict(use_mean_pooling=False), dict(out_type='cls_token')),
    'absolute positions': (dict(use_absolute_position_embeddings=True), dict(use_abs_pos_emb=True)),
    'absolute positions alone': (dict(use_absolute_position_embeddings=True, use_relative_position_bias=False,
                                      hidden_size=128, intermediate_size=512, num_attention_heads=2), NO_BIAS),
    'no LayerScale': (dict(layer_scale_init_value=0.0), dict(layer_scale_init_value=0)),
    'shared bias': (dict(use_relative_position_bias=False, use_shared_relative_position_bias=True),
                    dict(use_rel_pos_bias=False, use_shared_rel_pos_bias=True)),
}  # yapf: disable
SEGMENTOR = {**SMALL, 'depth': 12, 'embed_dim': 32, 'num_heads': 2}
PRE_TRAINING = dict(use_mask_token=True, use_relative_position_bias=False, use_shared_relative_position_bias=True)

compare = partial(support.fidelity.compare, 'transformers')


def config(**options) -> transformers.BeitConfig:
    trunk = dict(hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=256, patch_size=16)
    rest = dict(image_size=64, layer_norm_eps=1e-6, use_relative_position_bias=True, num_labels=10, vocab_size=32)
    return transformers.BeitConfig(**{**trunk, **rest, **options})


def segmentor_config() -> transformers.BeitConfig:
    trunk = dict(hidden_size=32, num_attention_heads=2, intermediate_size=128, num_hidden_layers=12)
    return config(**trunk, num_labels=9, auxiliary_channels=16, out_indices=[3, 5, 7, 11])


def open_strictly(kind: type, folder) -> torch.nn.Module:
    """Transformers' model from a folder, which must hold all of its weights and no others."""
    model, found = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(found.values()), found
    return model.eval()


def weights_of(folder) -> dict:
    return load_file(folder / 'model.safetensors')


def our_weights(path) -> dict:
    return torch.load(path, weights_only=True)['state_dict']


def logits_of(peer: torch.nn.Module) -> torch.Tensor:
    if isinstance(peer, BeitModel):
        return peer(PIXELS).pooler_output
    return peer(PIXELS, **(dict(bool_masked_pos=MASK.flatten(1)) if 'Masked' in type(peer).__name__ else {})).logits


def compare_both(how: str, ours: torch.Tensor, peer: torch.nn.Module) -> None:
    """With both of its ways to compute attention."""
    compare(type(peer).__name__, how, ours, logits_of(peer))
    peer.set_attn_implementation('eager')
    compare(type(peer).__name__, f'{how}, their attention written out', ours, logits_of(peer))


def auxiliary_logits(peer: BeitForSemanticSegmentation) -> torch.Tensor:
    """Which transformers computes for the loss and does not return."""
    kept = []
    hook = peer.auxiliary_head.register_forward_hook(lambda module, inputs, logits: kept.append(logits))
    peer(PIXELS)
    hook.remove()
    return kept[0]


# Its weights in our models


@torch.no_grad()
def test_pre_training(folder):
    peer = draw(BeitForMaskedImageModeling(config(**PRE_TRAINING)))
    peer.save_pretrained(folder / 'start')
    model = load(pre_training_model(32, **SMALL), folder / 'start')
    compare_both('their weights in ours', pre_training_logits(model, PIXELS, MASK), peer)
    assert_names_in_memory(folder, peer, model)
    assert_back_again(folder, peer)


@torch.no_grad()
@pytest.mark.parametrize('what', CLASSIFIERS)
def test_classification(what, folder):
    theirs, ours = CLASSIFIERS[what]
    peer = draw(BeitForImageClassification(config(**theirs)))
    peer.save_pretrained(folder / 'start')
    model = load(classifier(num_classes=10, **{**SMALL, **ours}), folder / 'start')
    compare_both(what, model(PIXELS), peer)
    assert_names_in_memory(folder, peer, model)
    assert_back_again(folder, peer)


@torch.no_grad()
def test_segmentation(folder):
    peer = draw(BeitForSemanticSegmentation(segmentor_config()))
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


@torch.no_grad()
def test_trunk(folder):
    peer = draw(BeitModel(config()))
    peer.save_pretrained(folder / 'start')
    trunk = load(BEiT(**SMALL), folder / 'start')
    compare_both('their weights in ours', trunk(PIXELS)[0], peer)
    assert_names_in_memory(folder, peer, trunk)
    assert_back_again(folder, peer)


def assert_back_again(folder, peer: torch.nn.Module) -> None:
    """Its folder `start` to our layout and back is the start, and opens as it did."""
    ours = convert_to('beit_mm', folder / 'start', folder / 'ours.safetensors')
    back = convert_to('transformers', ours, folder / 'back')
    assert_same(weights_of(back), weights_of(folder / 'start'))
    assert_same(open_strictly(type(peer), back).state_dict(), peer.state_dict())
    start, written = (json.loads((path / 'config.json').read_text()) for path in (folder / 'start', back))
    differing = {name for name in written if name in start and written[name] != start[name]}
    assert differing <= {'layer_scale_init_value', 'id2label', 'label2id', 'drop_path_rate'}, differing


def assert_names_in_memory(folder, peer: torch.nn.Module, model: torch.nn.Module) -> None:
    """Version 5 has other names in memory than in its files; they load alike."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.save(peer.state_dict(), folder / 'memory.pth')
    assert_same(load(model, folder / 'memory.pth').state_dict(), before)


@torch.no_grad()
@pytest.mark.parametrize('form', ['pytorch_model.bin', 'pytorch_model.bin in a folder', 'shards'])
def test_forms_of_its_files(form, folder):
    """Older versions wrote the files' names with torch.save, and the index, which it keeps no more."""
    peer = draw(BeitForImageClassification(config()))
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
    model = load(classifier(num_classes=10, **SMALL), path)
    compare('BeitForImageClassification', form, model(PIXELS), peer(PIXELS).logits)


@pytest.mark.parametrize('names', ['in files', 'in memory'])
def test_a_trunk_with_a_norm_too_many_is_refused(names, folder):
    """Without mean pooling its pre-training model has two norms in a row; ours and the release's have one."""
    peer = draw(BeitForMaskedImageModeling(config(**PRE_TRAINING, use_mean_pooling=False)))
    path = folder if names == 'in files' else folder / 'model.pth'
    peer.save_pretrained(path) if names == 'in files' else torch.save(peer.state_dict(), path)
    with pytest.raises(ValueError, match='norm'):
        load(pre_training_model(32, **SMALL), path)


# Our weights in its models


def open_ours(kind: type, model: torch.nn.Module, folder, **options) -> torch.nn.Module:
    """Our weights in its model. The folder back in our layout is our model's file, saved anew by transformers, too."""
    theirs = convert_to('transformers', save(folder / 'ours.pth', model), folder / 'theirs', **options)
    peer = open_strictly(kind, theirs)
    type(peer).from_pretrained(theirs).save_pretrained(folder / 'again')
    for source in ('theirs', 'again'):
        back = convert_to('beit_mm', folder / source, folder / f'{source}.pth')
        assert_same(our_weights(back), model.state_dict())
        again = convert_to('transformers', back, folder / f'{source} once more', **options)
        assert_same(weights_of(again), weights_of(folder / source))
    return peer


@torch.no_grad()
def test_our_pre_training_weights(folder):
    model = draw(pre_training_model(32, **SMALL))
    peer = open_ours(BeitForMaskedImageModeling, model, folder)
    compare(type(peer).__name__, 'our weights in theirs', logits_of(peer), pre_training_logits(model, PIXELS, MASK))


@torch.no_grad()
@pytest.mark.parametrize('kind', [AutoModelForImageClassification, BeitForImageClassification])
@pytest.mark.parametrize('what', CLASSIFIERS)
def test_our_classification_weights(what, kind, folder):
    model = draw(classifier(num_classes=10, **{**SMALL, **CLASSIFIERS[what][1]}))
    peer = open_ours(kind, model, folder)
    assert type(peer) is BeitForImageClassification
    compare(kind.__name__, f'{what}, our weights in theirs', logits_of(peer), model(PIXELS))


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


@torch.no_grad()
def test_our_trunk(folder):
    trunk = draw(BEiT(**SMALL))
    peer = open_ours(BeitModel, trunk, folder)
    compare('BeitModel', 'our weights in theirs', logits_of(peer), trunk(PIXELS)[0])
