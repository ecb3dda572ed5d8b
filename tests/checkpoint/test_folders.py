"""Model folders as the Hugging Face Hub has them."""

import json

import pytest
import torch
from mmengine.runner import CheckpointLoader
from safetensors.torch import save_file

from beit_mm.checkpoint import read_checkpoint

CONFIG = dict(architectures=['BeitForMaskedImageModeling'], hidden_size=32, layer_norm_eps=1e-12)


def save(path, **weights):
    save_file(weights, path) if path.suffix == '.safetensors' else torch.save(weights, path)


def shard(folder, suffix='.safetensors'):
    """Two files and their index, as transformers names them."""
    stem, index = (
        ('model', 'model.safetensors.index.json')
        if suffix == '.safetensors'
        else ('pytorch_model', 'pytorch_model.bin.index.json')
    )
    names = [f'{stem}-0000{number}-of-00002{suffix}' for number in (1, 2)]
    save(folder / names[0], a=torch.zeros(1), b=torch.ones(2))
    save(folder / names[1], c=torch.full((3,), 2.0))
    weight_map = dict(a=names[0], b=names[0], c=names[1])
    (folder / index).write_text(json.dumps(dict(metadata=dict(total_size=24), weight_map=weight_map)))
    return folder / index, weight_map


@pytest.mark.parametrize('name', ['model.safetensors', 'pytorch_model.bin'])
def test_one_file(tmp_path, name):
    save(tmp_path / name, weight=torch.arange(3.0))
    for folder in (tmp_path, str(tmp_path), f'{tmp_path}/'):
        assert read_checkpoint(folder)['weight'].tolist() == [0, 1, 2]
    (tmp_path / 'config.json').write_text(json.dumps(CONFIG))
    for address in (str(tmp_path), f'file://{tmp_path}'):
        checkpoint = CheckpointLoader.load_checkpoint(address)
        assert checkpoint['meta'] == dict(hf_config=CONFIG)
        assert checkpoint['state_dict']['weight'].tolist() == [0, 1, 2]


@pytest.mark.parametrize('suffix', ['.safetensors', '.bin'])
def test_several_files(tmp_path, suffix):
    shard(tmp_path, suffix)
    (tmp_path / 'config.json').write_text(json.dumps(CONFIG))
    checkpoint = read_checkpoint(tmp_path)
    assert {name: weight.tolist() for name, weight in checkpoint['state_dict'].items()} == dict(
        a=[0], b=[1, 1], c=[2, 2, 2]
    )
    assert checkpoint['meta']['hf_config'] == CONFIG


def test_safetensors_come_first(tmp_path):
    save(tmp_path / 'pytorch_model.bin', weight=torch.zeros(1))
    save(tmp_path / 'model.safetensors', weight=torch.ones(1))
    assert read_checkpoint(tmp_path)['weight'].tolist() == [1]


def test_links_are_followed(tmp_path):
    """As in the cache of huggingface_hub."""
    (tmp_path / 'blobs').mkdir()
    (tmp_path / 'snapshot').mkdir()
    save_file(dict(weight=torch.ones(1)), tmp_path / 'blobs' / '5c106cde')
    (tmp_path / 'snapshot' / 'model.safetensors').symlink_to('../blobs/5c106cde')
    assert read_checkpoint(tmp_path / 'snapshot')['weight'].tolist() == [1]


def test_a_folder_without_weights_is_named(tmp_path):
    (tmp_path / 'config.json').write_text('{}')
    with pytest.raises(FileNotFoundError, match=f'must hold model.safetensors or .*, got {tmp_path} without any'):
        CheckpointLoader.load_checkpoint(str(tmp_path))


@pytest.mark.parametrize(
    'name',
    [
        '../model.safetensors',
        '/etc/passwd',
        'sub/model.safetensors',
        '..',
        '.',
        '',
        3,
        None,
        ['a'],
        'a\nb',
        '..\\model.safetensors',
    ],
)
def test_an_index_leads_to_nothing_outside_its_folder(tmp_path, name):
    folder = tmp_path / 'folder'
    (folder / 'sub').mkdir(parents=True)
    for place in (tmp_path, folder / 'sub'):
        save(place / 'model.safetensors', a=torch.zeros(1))
    (folder / 'model.safetensors.index.json').write_text(json.dumps(dict(weight_map=dict(a=name))))
    with pytest.raises(ValueError, match='index.json must name files of its own folder, got ') as raised:
        read_checkpoint(folder)
    assert '\n' not in str(raised.value)


def test_a_missing_shard_is_named(tmp_path):
    _, weight_map = shard(tmp_path)
    (tmp_path / weight_map['c']).unlink()
    with pytest.raises(FileNotFoundError, match=f'expected, got {tmp_path}/{weight_map["c"]}'):
        read_checkpoint(tmp_path)


def test_a_weight_that_its_shard_lacks_is_named(tmp_path):
    index, weight_map = shard(tmp_path)
    index.write_text(json.dumps(dict(weight_map=dict(weight_map, d=weight_map['c']))))
    with pytest.raises(ValueError, match=f"{weight_map['c']} must hold 'd' as {index.name} says, got no such weight"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize('text', ['', '{', '[]', '3', '{"a": ' * 100_000, '\0\1\2', '{"a": 1}'])
@pytest.mark.parametrize('name', ['config.json', 'model.safetensors.index.json'])
def test_other_json_is_named(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    if name == 'config.json':
        save(tmp_path / 'model.safetensors', a=torch.zeros(1))
        if text == '{"a": 1}':
            assert read_checkpoint(tmp_path)['meta'] == dict(hf_config=dict(a=1))
            return
    with pytest.raises(ValueError, match=f'{tmp_path}/{name} must ') as raised:
        read_checkpoint(tmp_path)
    assert '\n' not in str(raised.value)


def test_a_checksum_belongs_to_a_file(tmp_path):
    save(tmp_path / 'model.safetensors', weight=torch.ones(1))
    with pytest.raises(ValueError, match=f'a checksum must go with a file, got the folder {tmp_path}'):
        read_checkpoint(f'{tmp_path}#sha256={"0" * 64}')
