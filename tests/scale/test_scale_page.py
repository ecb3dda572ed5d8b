"""docs/scale.md: its arithmetic is done again."""

import re

import pytest
from support import CONFIGS, ROOT
from support.recipes import load, meta_model

PAGE = (ROOT / 'docs' / 'scale.md').read_text()


def figures(row: str) -> list:
    """The numbers of a row of the page, for base and large."""
    (line,) = [line for line in PAGE.splitlines() if line.startswith(f'| {row}')]
    return [[float(number) for number in re.findall(r'\d+\.?\d*', cell)] for cell in line.split('|')[2:4]]


@pytest.mark.parametrize('column, name', [*enumerate(['beit_pretrain.py', 'pretrain/beit_large_1k_800e.py'])])
def test_bytes_follow_from_the_numbers_of_parameters(column, name):
    model = meta_model(name)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    frozen = sum(parameter.numel() for parameter in model.parameters() if not parameter.requires_grad)
    block = sum(parameter.numel() for parameter in model.backbone.blocks[0].parameters())
    blocks = block * len(model.backbone.blocks)
    # In the page's units: millions, GB, and ms at 450 and at 50 GB/s.
    expected = {
        'trained': [trained / 1e6],
        'frozen': [frozen / 1e6],
        'of T in blocks': [blocks / 1e6, block / 1e6],
        'checkpoint': [(12 * trained + 4 * frozen) / 1e9],
        'DDP |': [(20 * trained + 4 * frozen) / 1e9],
    }
    for shards in (8, 512):
        expected[f'{shards} shards |'] = [
            (16 * trained / shards + 4 * frozen + 12 * block + 8 * (trained - blocks)) / 1e9
        ]
    sent = {
        '8 GPUs, DDP': (7 * trained, 450),
        '8 shards: ': (10.5 * trained, 450),
        '8 shards, blocks': (7 / 8 * (12 * trained - 4 * blocks), 450),
        '512 GPUs, DDP': (8 * 511 / 512 * trained, 50),
        '512 shards: ': (12 * 511 / 512 * trained, 50),
        '`num_shards=8`': (10.5 * trained, 450),
        'and between': (63 / 64 * trained, 50),
    }
    expected.update({row: [amount / 1e9, 1e3 * amount / 1e9 / speed] for row, (amount, speed) in sent.items()})
    for row, numbers in expected.items():
        assert figures(row)[column] == pytest.approx(numbers, rel=0.04, abs=0.05), row


def test_the_recipe_in_shards_differs_from_its_base_by_what_the_page_says():
    sharded, base = [load(f'pretrain/beit_large_1k_800e{kind}.py').to_dict() for kind in ('_sharded', '')]
    assert {key for key in sharded if sharded[key] != base.get(key)} == {'runner_type', 'strategy'}
    lines = (CONFIGS / 'pretrain' / 'beit_large_1k_800e_sharded.py').read_text().splitlines()[-2:]
    assert all(line in PAGE for line in lines)
