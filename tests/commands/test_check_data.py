"""beit-mm check with published counts, and with the data sets of a config."""

from pathlib import Path

import pytest
from PIL import Image
from support import CONFIGS
from support.tools import command


def check(capsys, *arguments: object) -> list[str]:
    """What the command prints, and that its exit code says whether anything is wrong."""
    try:
        command('check', *arguments)
        code = 0
    except SystemExit as end:
        code = end.code
    lines = capsys.readouterr().out.splitlines()
    assert code == int(any(line.startswith('error: ') for line in lines))
    return lines


@pytest.mark.parametrize('name', ['imagenet', 'imagenet22k', 'ade20k'])
def test_small_data_sets_differ_from_the_published_ones_in_numbers_only(in_data, capsys, name):
    lines = check(capsys, name)
    assert len(lines) > 2 and lines[-1] == f'{name}: {len(lines) - 1} mistakes'
    assert all('expected' in line and 'got' in line and 'a part is missing' in line for line in lines[:-1])


def test_published_counts_pass_and_a_deeper_folder_is_named(tmp_path, capsys):
    folder = tmp_path / 'deeper' / 'cifar-100-python'
    folder.mkdir(parents=True)
    for name in ('train', 'test', 'meta', 'file.txt~'):
        (folder / name).touch()
    assert check(capsys, 'cifar100', tmp_path / 'deeper') == ['cifar100: no mistakes found']
    assert f'give {tmp_path / "deeper"} as ROOT' in check(capsys, 'cifar100', tmp_path)[0]


def config(folder: Path, root: Path) -> Path:
    path = folder / 'config.py'
    loaders = [f"{name}_dataloader = dict(dataset=dict(data_root='{root}'))" for name in ('train', 'val', 'test')]
    path.write_text('\n'.join([f"_base_ = '{CONFIGS}/demo/segment.py'", *loaders]))
    return path


def test_the_data_of_a_config_is_loaded(tmp_path, capsys, digits):
    path = config(tmp_path, digits / 'ade20k')
    assert check(capsys, path, '--data', '--workers', 1)[-1] == f'{path}: no mistakes found'


def test_damaged_images_and_labels_beyond_the_head_are_listed(tmp_path, capsys):
    for split in ('training', 'validation'):
        for kind in ('images', 'annotations'):
            (tmp_path / kind / split).mkdir(parents=True)
        for name, label in (('a', 1), ('b', 200), ('c', 2)):
            Image.new('RGB', (8, 8)).save(tmp_path / 'images' / split / f'{name}.jpg')
            Image.new('L', (8, 8), label).save(tmp_path / 'annotations' / split / f'{name}.png')
        (tmp_path / 'images' / split / 'c.jpg').write_bytes(b'damaged')
    lines = check(capsys, config(tmp_path, tmp_path), '--data', '--workers', 0)
    assert lines[-1].endswith(': 4 mistakes')
    for words in ('train_dataloader.dataset: ', 'val_dataloader.dataset: ', 'b.png', 'c.jpg', '200'):
        assert any(words in line for line in lines)


def test_images_of_other_bands_than_the_model_takes_are_counted(tmp_path, capsys, digits):
    path = config(tmp_path, digits / 'ade20k')
    for folder, mode in (('images', 'L'), ('images', 'RGB'), ('annotations', 'L')):
        (tmp_path / folder / 'training').mkdir(parents=True, exist_ok=True)
        name = f'{mode}.jpg' if folder == 'images' else 'L.png'
        Image.new(mode, (8, 8)).save(tmp_path / folder / 'training' / name)
    Image.new('L', (8, 8)).save(tmp_path / 'annotations' / 'training' / 'RGB.png')
    load = "dict(type='beit_mm.LoadImage', color_type='unchanged')"
    steps = f'pipeline=[{load}, *_base_.train_dataloader.dataset.pipeline[1:]]'
    path.write_text(f"{path.read_text()}\ntrain_dataloader = dict(dataset=dict(data_root='{tmp_path}', {steps}))\n")
    lines = [line for line in check(capsys, path, '--data', '--workers', 0) if 'are loaded with' in line]
    name = tmp_path / 'images' / 'training' / 'L.jpg'
    words = f"1 images are loaded with 1 bands (such as {name}), and the model takes 3; color_type='color'"
    assert len(lines) == 1 and words in lines[0] and lines[0].startswith('warning: train_dataloader.dataset: ')


def test_neither_config_nor_data_set(capsys):
    with pytest.raises(SystemExit, match='2'):
        command('check', 'imagnet')
    assert 'must be a config file or one of imagenet, ' in capsys.readouterr().err
