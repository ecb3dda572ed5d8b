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


def test_neither_config_nor_data_set(capsys):
    with pytest.raises(SystemExit, match='2'):
        command('check', 'imagnet')
    assert 'must be a config file or one of imagenet, ' in capsys.readouterr().err
