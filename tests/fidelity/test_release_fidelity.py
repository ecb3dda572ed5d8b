"""The release's files and printed numbers: in every wrapper they come in, and from our models back to its names."""

import argparse
import json

import numpy as np
import pytest
import torch
from support.fidelity import (
    assert_same,
    classifier,
    compare,
    convert_to,
    draw,
    load,
    pre_training_logits,
    pre_training_model,
    REFERENCE,
    save,
    segmentation_logits,
    segmentor,
)
from timm.models.beit import gen_relative_position_index

TABLE, INDEX = 'relative_position_bias_table', 'relative_position_index'


class Printed:
    """A file of numbers that the release printed: `weights`, and arrays by name."""

    def __init__(self, name: str):
        self.arrays = np.load(REFERENCE / f'{name}_forward.npz', allow_pickle=False)
        config = json.loads(str(self.arrays['config']))
        self.size = {name: config[name] for name in ('img_size', 'embed_dim', 'depth', 'num_heads')}
        self.config = config
        self.weights = {
            name.removeprefix('weight/'): self[name] for name in self.arrays.files if name.startswith('weight/')
        }
        side = config['img_size'] // 16
        self.weights.update(
            {
                name.replace(TABLE, INDEX): gen_relative_position_index((side, side))
                for name in self.weights
                if name.endswith(TABLE)
            }
        )

    def __getitem__(self, name: str) -> torch.Tensor:
        return torch.from_numpy(np.asarray(self.arrays[name]))


def our_model(kind: str, file: Printed) -> torch.nn.Module:
    if kind == 'mim':
        return pre_training_model(file.config['vocab_size'], **file.size)
    if kind == 'finetune':
        return classifier(num_classes=file.config['num_classes'], **file.size)
    return segmentor(
        num_classes=file.config['num_classes'],
        auxiliary=dict(channels=file.config['aux_channels']),
        channels=file.config['channels'],
        out_indices=file.config['out_indices'],
        **file.size,
    )


def optimizer_of(weights: dict) -> dict:
    parameters = [torch.nn.Parameter(tensor) for tensor in weights.values() if tensor.is_floating_point()]
    optimizer = torch.optim.AdamW(parameters)
    sum(parameter.sum() for parameter in parameters).backward()
    optimizer.step()
    return optimizer.state_dict()


ARGUMENTS = argparse.Namespace(model='beit_base_patch16_224', lr=5e-4, opt_betas=[0.9, 0.98], output_dir='out')
WRAPPERS = {
    'model': lambda weights: dict(model=weights),
    'module': lambda weights: dict(module=weights),
    'bare': lambda weights: weights,
    'state_dict': lambda weights: dict(state_dict=weights, meta={}),
    'a run': lambda weights: dict(model=weights, optimizer=optimizer_of({name: tensor.clone() for name, tensor in
                                                                        weights.items()}),
                                  epoch=7, scaler=dict(scale=65536.0), args=ARGUMENTS,
                                  model_ema={name: tensor * 0 for name, tensor in weights.items()}),
}  # yapf: disable


@torch.no_grad()
def compare_with_print(kind: str, what: str, file: Printed, model: torch.nn.Module) -> None:
    if kind == 'mim':
        logits = pre_training_logits(model, file['x'], file['mask'].unflatten(1, (4, 4)))
        compare('release', 'pre-training', what, logits[file['mask']], file['masked_logits'])
    elif kind == 'finetune':
        compare('release', 'fine-tuned', what, model(file['x']), file['logits'])
    else:
        logits, auxiliary = segmentation_logits(model, file['x'])
        compare('release', 'ADE20K, decode head', what, logits, file['decode_logits'])
        compare('release', 'ADE20K, auxiliary head', what, auxiliary, file['auxiliary_logits'])


@pytest.mark.parametrize('wrapper', WRAPPERS)
@pytest.mark.parametrize('kind', ['mim', 'finetune', 'segmentation'])
def test_released_weights_give_the_printed_numbers(kind, wrapper, folder):
    file = Printed(kind)
    with torch.enable_grad():
        torch.save(WRAPPERS[wrapper](file.weights), folder / 'release.pth')
    model = load(our_model(kind, file), folder / 'release.pth')
    what = wrapper if wrapper in ('bare', 'a run') else f'in "{wrapper}"'
    compare_with_print(kind, what, file, model)

    ours = convert_to('beit_mm', folder / 'release.pth', folder / 'ours.pth')
    compare_with_print(kind, 'converted', file, load(our_model(kind, file), ours))
    back = convert_to('release', ours, folder / 'back.pth')
    (content,) = [value for key, value in torch.load(back, weights_only=True).items() if key != 'meta']
    assert_same(content, file.weights)


@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
@pytest.mark.parametrize('kind', ['mim', 'finetune', 'segmentation'])
def test_our_weights_in_the_releases_names_and_back(kind, suffix, folder):
    file = Printed(kind)
    model = draw(our_model(kind, file))
    theirs = convert_to('release', save(folder / 'ours.pth', model), folder / f'theirs.{suffix}')
    back = convert_to('beit_mm', theirs, folder / 'back.pth')
    assert_same(torch.load(back, weights_only=True)['state_dict'], model.state_dict())
    loaded = load(our_model(kind, file), theirs)
    assert_same(loaded.state_dict(), model.state_dict())


@pytest.mark.parametrize('size', [(48, 80), (80, 48)])
def test_the_index_tells_a_grid_that_is_not_square(size, folder):
    """3 x 5 patches have as many bias rows as 5 x 3."""
    model = draw(classifier(num_classes=5, img_size=size, embed_dim=32, depth=2, num_heads=2))
    theirs = convert_to('release', save(folder / 'ours.pth', model), folder / 'theirs.pth')
    index = torch.load(theirs, weights_only=True)['model'][f'blocks.1.attn.{INDEX}']
    assert torch.equal(index, gen_relative_position_index((size[0] // 16, size[1] // 16)))
    assert_same(
        torch.load(convert_to('beit_mm', theirs, folder / 'back.pth'), weights_only=True)['state_dict'],
        model.state_dict(),
    )
    turned = classifier(num_classes=5, img_size=size[::-1], embed_dim=32, depth=2, num_heads=2)
    from_theirs, from_ours = (load(turned, folder / name).state_dict().copy() for name in ('theirs.pth', 'ours.pth'))
    assert_same(from_theirs, from_ours)
