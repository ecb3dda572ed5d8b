"""Pictures while several processes train: of a model in shards, all compute and one draws."""

import pytest


@pytest.mark.parametrize('kind', ['', '_sharded'])
def test_the_main_process_draws_and_nothing_fails(kind, pretrained):
    folder, _ = pretrained[kind]
    assert sorted(path.name for path in folder.glob('*/vis_data/vis_image/*')) == [
        f'{name}_{step}.png' for name in ('codebook', 'reconstruction') for step in (2, 4)
    ]
    assert all('nothing drawn' not in path.read_text() for path in folder.glob('*/*.log'))
