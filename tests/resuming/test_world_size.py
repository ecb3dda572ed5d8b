"""Other processes or images per step are refused unless asked for, and then go on at the same sample."""

import shutil

import pytest
from support.checkpoints import content
from support.resuming import losses, STEPS, train, train_by_processes, workers, write_config

STILL = {'model.backbone.drop_rate': 0.0, 'model.backbone.attn_drop_rate': 0.0, 'model.backbone.drop_path_rate': 0.0}
ALLOWED = {'train_cfg.allow_world_size_change': True}


def batch(size: int) -> dict:
    return {**workers(0), **STILL, 'train_dataloader.batch_size': size}


@pytest.fixture(scope='module')
def whole(data, tmp_path_factory):
    """One process, two images per step, four steps an epoch."""
    folder = tmp_path_factory.mktemp('whole')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(data)
        train(write_config('pretrain', folder / 'run.py', **batch(2)), folder)
    return folder


def test_it_is_refused(in_data, whole, tmp_path):
    shutil.copy(whole / 'iter_3.pth', tmp_path)
    message = (
        'of 1 process with 2 images each and 4 steps an epoch, this run has 1 process with 4 images each and 2 '
        'steps .*allow_world_size_change=True'
    )
    with pytest.raises(ValueError, match=message):
        train(write_config('pretrain', tmp_path / 'run.py', **batch(4)), tmp_path, resume='auto')
    options, folder = {**workers(0), 'train_cfg.max_iters': 2}, tmp_path / 'tokenizer'
    train(write_config('tokenizer', tmp_path / 'run.py', **options), folder)
    options = {**workers(0), **ALLOWED, 'train_dataloader.batch_size': 4}
    with pytest.raises(ValueError, match='needs the same 2 images per step'):
        train(write_config('tokenizer', tmp_path / 'run.py', **options), folder, resume='auto')


def test_two_processes_go_on_where_one_was(in_data, whole, tmp_path):
    shutil.copy(whole / 'iter_3.pth', tmp_path)
    train_by_processes(2, write_config('pretrain', tmp_path / 'run.py', **batch(1), **ALLOWED), tmp_path, resume='auto')
    assert sorted(losses(tmp_path)) == list(range(4, STEPS + 1))
    ours, theirs = (content(folder / f'iter_{STEPS}.pth')['state_dict'] for folder in (tmp_path, whole))
    start = content(whole / 'iter_3.pth')['state_dict']
    apart = sum((ours[name] - theirs[name]).abs().sum() for name in theirs)
    moved = sum((theirs[name] - start[name]).abs().sum() for name in theirs)
    # The same samples with the same masks: but for the order of sums the same weights.
    assert 0 < apart < 1e-3 * moved


def test_larger_steps_go_on_at_the_same_sample_with_their_own_schedule(in_data, whole, tmp_path):
    always, changed = tmp_path / 'always', tmp_path / 'changed'
    train(write_config('pretrain', tmp_path / 'run.py', **batch(4)), always)
    changed.mkdir()
    shutil.copy(whole / 'iter_2.pth', changed)
    train(write_config('pretrain', tmp_path / 'run.py', **batch(4), **ALLOWED), changed, resume='auto')
    ours, theirs = losses(changed), losses(always)
    assert sorted(ours) == [2, 3, 4]  # four of eight images had been seen: one step of four
    assert [ours[step]['lr'] for step in ours] == [theirs[step]['lr'] for step in ours]
    assert len({ours[step]['lr'] for step in ours}) > 1
