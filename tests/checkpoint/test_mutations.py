"""Mutations of honest weights files in every layout and format: equal values, or one of our errors."""

import contextlib
import shutil

import numpy as np
import pytest
import torch
from support.weights import assert_equal

from beit_mm.checkpoint.converting import convert
from beit_mm.checkpoint.sources import load_from_anywhere
from beit_mm.errors import UserError
from beit_mm.models import BEiT

TRUNK = dict(img_size=32, embed_dim=8, depth=2, num_heads=2)
LAYOUTS = 'beit_mm release timm mmpretrain mmsegmentation'.split()
FILES = {
    **{f'{layout}.{suffix}': layout for layout in LAYOUTS for suffix in ('pth', 'safetensors', 'old.bin')},
    'passl.pdparams': 'passl',
    'transformers': 'transformers',
    'run.pth': 'beit_mm',
}
HAS_CHECKSUMS = [name for name in FILES if name.endswith('.pth')]


def write_all(folder):
    """Each file of FILES with the same weights."""
    torch.manual_seed(0)
    state = BEiT(**TRUNK).state_dict()
    weights = {f'backbone.{k}': torch.randn_like(v) if v.is_floating_point() else v for k, v in state.items()}
    torch.save(dict(state_dict=weights, meta={}), folder / 'ours.pth')
    run = dict(meta=dict(epoch=1, iter=2, dataset_meta=dict(classes=['a'])), optimizer=dict(state={0: torch.ones(3)}))
    torch.save(dict(run, state_dict=weights), folder / 'run.pth')
    for name, layout in FILES.items():
        if name.endswith('.old.bin'):
            content = torch.load(folder / name.replace('.old.bin', '.pth'), weights_only=True)
            torch.save(content, folder / name, _use_new_zipfile_serialization=False)
        elif name != 'run.pth':
            list(convert(folder / 'ours.pth', folder / name, layout))


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """One or two changes, most of them near the beginning or the end, where the lists of contents are."""
    for _ in range(rng.integers(1, 3)):
        length = max(len(content), 1)
        near = int(rng.integers(min(length, 3000)))
        position = (near, length - 1 - near, int(rng.integers(length)))[rng.integers(3)]
        size = int(rng.choice([1, 1, 4, 8, 64]))
        random, ends = rng.bytes(size), (b'\0', b'\xff', b'\x7f', b'\x80')[rng.integers(4)] * size
        flipped = bytes([content[position] ^ (1 << int(rng.integers(8)))]) if content else b''
        other = int(rng.integers(length))
        content = (
            content[:position] + flipped + content[position + 1 :],
            content[:position] + random + content[position + size :],
            content[:position] + ends + content[position + size :],
            content[:position],
            content[:position] + random + content[position:],
            content[:position] + content[position + size :],
            content[:position] + content[other : other + size] + content[position + size :],
            content[:other] + content[position:],
        )[rng.integers(8)]
    return content


@pytest.mark.parametrize('count', [300, pytest.param(20_000, marks=pytest.mark.long)])
@pytest.mark.filterwarnings('ignore')
def test_mutated_files_give_equal_values_or_one_of_our_errors(count, once, tmp_path):
    folder = once('weights_of_every_layout', write_all)
    names, outcomes = list(FILES), {'equal': 0, 'other': 0, 'refused': 0, 'does not fit': 0}
    expected = {name: load_from_anywhere(str(folder / name))['state_dict'] for name in names}
    model = BEiT(**TRUNK)
    for number in range(count):
        rng, name = np.random.default_rng([16, number]), names[number % len(names)]
        source, target = folder / name, tmp_path / name
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
            files = sorted(source.iterdir())
            source = files[rng.integers(len(files))]
            target = target / source.name
        target.write_bytes(mutate(source.read_bytes(), rng))
        try:
            content = load_from_anywhere(str(tmp_path / name))
        except (UserError, FileNotFoundError) as error:
            assert '\n' not in str(error) and len(str(error)) < 1000, (number, name)
            outcomes['refused'] += 1
            continue
        weights = content.get('state_dict', content)
        with contextlib.suppress(AssertionError):
            assert_equal(weights, expected[name])
            outcomes['equal'] += 1
            continue
        assert name not in HAS_CHECKSUMS, f'case {number}: other values'
        try:
            model.load_state_dict(weights, strict=False)
            outcomes['other'] += 1
        except UserError:
            outcomes['does not fit'] += 1
    assert all(outcomes[name] for name in ('equal', 'other', 'refused')), outcomes
