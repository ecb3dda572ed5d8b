"""Processes and accumulation share out one large batch: the same losses, gradient norms and weights."""

from pathlib import Path

import pytest
import torch
from mmengine.runner import CheckpointLoader
from support.processes import train

# No schedule, as it counts steps, and no AdamW at gradients of nearly 0, where rounding decides about the sign.
STEADY = {
    'param_scheduler': [dict(type='ConstantLR', factor=1.0, end=1, by_epoch=False)],
    'optim_wrapper.optimizer.eps': 1e-4,
}
# Processes, images per process and step, steps per update.
SHARES = [(2, 4, 1), (1, 4, 2), (2, 2, 2)]


def run(config: Path, folder: Path, processes: int, images: int, accumulated: int) -> tuple:
    """Loss and gradient norm of every update, and the weights at the end."""
    scalars = train(
        config,
        folder,
        processes,
        **STEADY,
        **{
            'train_dataloader.batch_size': images,
            'optim_wrapper.accumulative_counts': accumulated,
            'optim_wrapper.clip_grad.max_norm': 1.0,
        },
    )
    losses = scalars['train/loss'].unflatten(0, (-1, accumulated)).mean(dim=1)
    weights = CheckpointLoader.load_checkpoint(str(folder / 'epoch_2.pth'))['state_dict']
    return losses, scalars['train/grad_norm'], weights


@pytest.fixture(scope='module')
def large_batch(configs, tmp_path_factory) -> dict:
    """One process with all 8 images in one step."""
    names = ('pretrain', 'finetune')
    return {name: run(configs / f'{name}.py', tmp_path_factory.mktemp(name), 1, 8, 1) for name in names}


@pytest.mark.parametrize(
    'name, shares',
    [
        *(('pretrain', shares) for shares in SHARES),
        ('finetune', SHARES[-1]),
        *(pytest.param('finetune', shares, marks=pytest.mark.long) for shares in SHARES[:-1]),
    ],
)
def test_shares_of_a_batch_train_as_the_whole(name, shares, configs, large_batch, tmp_path):
    losses, norms, weights = run(configs / f'{name}.py', tmp_path, *shares)
    expected_losses, expected_norms, expected = large_batch[name]
    assert len(losses) == len(norms) == 4
    torch.testing.assert_close(losses, expected_losses, rtol=1e-6, atol=0)
    torch.testing.assert_close(norms, expected_norms, rtol=1e-6, atol=0)
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-6)  # the learning rate is 1e-2
