"""Model folders as the Hugging Face Hub has them: what reading them gives."""

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
    stem = 'model' if suffix == '.safetensors' else 'pytorch_model'
    names = [f'{stem}-0000{number}-of-00002{suffix}' for number in (1, 2)]
    save(folder / names[0], a=torch.zeros(1), b=torch.ones(2))
    save(folder / names[1], c=torch.full((3,), 2.0))
    weight_map = dict(a=names[0], b=names[0], c=names[1])
    index = folder / f'{stem}{suffix}.index.json'
    index.write_text(json.dumps(dict(metadata=dict(total_size=24), weight_map=weight_map)))
    return index, weight_map


@pytest.mark.parametrize('name', ['model.safetensors', 'pytorch_model.bin'])
def test_a_folder_of_one_file(tmp_path, name):
    blob = tmp_path / 'blob'
    save(tmp_path / name, weight=torch.arange(3.0))
    (tmp_path / name).rename(blob)
    (tmp_path / name).symlink_to('blob')  # as in the cache of huggingface_hub
    if name == 'model.safetensors':
        save(tmp_path / 'pytorch_model.bin', weight=torch.zeros(1))  # comes second
    for folder in (tmp_path, str(tmp_path), f'{tmp_path}/'):
        assert read_checkpoint(folder)['weight'].tolist() == [0, 1, 2]
    (tmp_path / 'config.json').write_text(json.dumps(CONFIG))
    checkpoint = CheckpointLoader.load_checkpoint(f'file://{tmp_path}')
    assert checkpoint['meta'] == dict(hf_config=CONFIG)
    assert checkpoint['state_dict']['weight'].tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match=f'a checksum must go with a file of weights, got {tmp_path}, which names sev'):
        read_checkpoint(f'{tmp_path}#sha256={"0" * 64}')
    (tmp_path / 'config.json').write_text(json.dumps(dict(CONFIG, id2label={'1': 'ox', '0': 'cat'})))
    assert read_checkpoint(tmp_path)['meta']['dataset_meta'] == dict(classes=['cat', 'ox'])


@pytest.mark.parametrize('suffix', ['.safetensors', '.bin'])
def test_a_folder_of_several_files(tmp_path, suffix):
    index, _ = shard(tmp_path, suffix)
    for path in (tmp_path, index):
        weights = read_checkpoint(path)
        assert {name: weight.tolist() for name, weight in weights.items()} == dict(a=[0], b=[1, 1], c=[2, 2, 2])


@pytest.mark.parametrize('name', ['../model.safetensors', '/etc/passwd', 'sub/model.safetensors', '', None, 'a\nb'])
def test_an_index_leads_to_nothing_outside_its_folder(tmp_path, name):
    folder = tmp_path / 'folder'
    (folder / 'sub').mkdir(parents=True)
    for other in (tmp_path, folder / 'sub'):
        save(other / 'model.safetensors', a=torch.zeros(1))
    (folder / 'model.safetensors.index.json').write_text(json.dumps(dict(weight_map=dict(a=name))))
    with pytest.raises(ValueError, match='index.json must name files of its own folder, got ') as raised:
        read_checkpoint(folder)
    assert '\n' not in str(raised.value)


def test_missing_files_and_weights_are_named(tmp_path):
    for read in (read_checkpoint, CheckpointLoader.load_checkpoint):
        with pytest.raises(FileNotFoundError, match=f'expected, got {tmp_path}/none.pth, which'):
            read(f'{tmp_path}/none.pth')
        with pytest.raises(FileNotFoundError, match=f'must hold model.safetensors or .*, got {tmp_path} without any'):
            read(str(tmp_path))
        with pytest.raises(FileNotFoundError, match='Hugging Face Hub, write hf-hub:microsoft/beit-base$'):
            read('microsoft/beit-base')
        with pytest.raises(ValueError, match='a checkpoint must be named, got an empty text'):
            read('')
    index, weight_map = shard(tmp_path)
    index.write_text(json.dumps(dict(weight_map=dict(weight_map, d=weight_map['c']))))
    with pytest.raises(ValueError, match=f"{weight_map['c']} must hold 'd' as {index.name} says, got no such weight"):
        read_checkpoint(tmp_path)
    (tmp_path / weight_map['c']).unlink()
    with pytest.raises(FileNotFoundError, match=f'expected, got {tmp_path}/{weight_map["c"]}'):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize('text', ['', '[]', '{"a": ' * 100_000, '\0\1\2'])
@pytest.mark.parametrize('name', ['config.json', 'model.safetensors.index.json'])
def test_other_json_is_named(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    if name == 'config.json':
        save(tmp_path / 'model.safetensors', a=torch.zeros(1))
    with pytest.raises(ValueError, match=f'{tmp_path}/{name} must ') as raised:
        read_checkpoint(tmp_path)
    assert '\n' not in str(raised.value)
