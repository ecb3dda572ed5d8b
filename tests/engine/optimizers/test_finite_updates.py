"""A batch that is not finite changes nothing in training, and nothing that is not finite is saved."""

import copy
from contextlib import nullcontext

import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from support import line_model
from support.processes import together
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Subset

from beit_mm.checkpoint.files import find_damage, POINTER
from beit_mm.engine import AutocastOptimWrapper, DeferredRuntimeInfoHook
from beit_mm.engine.hooks.checkpoint_hook import check_finite
from beit_mm.engine.optimizers.autocast_wrapper import NotFinite

NAN, INF = float('nan'), float('inf')
FUSED = dict(type='AdamW', lr=1e-2, fused=True)
OPTIMIZERS = [
    FUSED,
    dict(type='Adam', lr=1e-2, fused=True),
    dict(type='AdamW', lr=1e-2),
    dict(type='SGD', lr=1e-2, momentum=0.9),
    dict(type='SGD', lr=1e-2, momentum=0.9, fused=True),
]


class Layers(BaseModel):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))

    def forward(self, x, bonus, mode='loss'):
        # A bonus has no gradient.
        return dict(loss=self.layers(x).square().mean() + bonus.mean()) if mode == 'loss' else [x]


class Batches(torch.utils.data.Dataset):
    """Samples in a fixed order; in some, all of x, or a bonus of the loss, is a value."""

    metainfo = {}

    def __init__(self, replaced=(), where='x', value=NAN):
        self.replaced, self.where, self.value = replaced, where, value

    def __len__(self):
        return 16

    def __getitem__(self, index):
        sample = dict(x=torch.randn(4, generator=torch.Generator().manual_seed(index)), bonus=torch.zeros(1))
        if index in self.replaced:
            sample[self.where] = torch.full_like(sample[self.where], self.value)
        return sample


def build(folder, data, optimizer=FUSED, accumulative_counts=1, clip_grad=None, log_interval=50) -> Runner:
    """Eight steps of two samples each."""
    return line_model.build(
        folder,
        model=Layers(),
        custom_hooks=[EMAHook(momentum=0.5)],
        train_cfg=dict(type='mmengine.EpochBasedTrainLoop', max_epochs=1),
        train_dataloader=dict(line_model.loader(), dataset=data),
        **dict.fromkeys(['val_cfg', 'val_dataloader', 'val_evaluator']),
        optim_wrapper=dict(
            type='AutocastOptimWrapper',
            optimizer=dict(optimizer),
            clip_grad=copy.copy(clip_grad),
            dtype='float32',
            accumulative_counts=accumulative_counts,
        ),
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=log_interval),
            checkpoint=dict(type='VerifiedCheckpointHook', by_epoch=False, interval=2),
        ),
    )


def average_of(runner) -> nn.Module:
    return next(hook for hook in runner.hooks if isinstance(hook, EMAHook)).ema_model


def state_of(runner) -> dict:
    """Weights, batch norm's statistics, and moments and step counts of the optimizer."""
    state = dict(runner.model.state_dict())
    for number, moments in runner.optim_wrapper.state_dict()['state'].items():
        state.update({f'{number}.{key}': torch.as_tensor(value) for key, value in moments.items()})
    return state


NORM = dict(max_norm=1.0)
CLIPPING = [None, NORM, dict(type='value', clip_value=0.01)]
BAD_VALUES = [('x', NAN), ('x', INF), ('bonus', INF)]
# The first update, when the optimizer has no state yet, and two in a row; then the third of updates of two steps.
SKIPPED = (0, 1, 6, 7, 8), [2, 3, 4, 5, 10, 11, 12, 13, 14, 15], [1, 1, 1, 2, 3, 3, 3, 3]
ACCUMULATED = [*range(8), *range(12, 16)], [0, 0, 1, 1]


@pytest.mark.parametrize(
    'bad, without, counts, where, value, options',
    [(*SKIPPED, *bad, dict(optimizer=FUSED, clip_grad=clip_grad)) for bad in BAD_VALUES for clip_grad in CLIPPING]
    + [(*SKIPPED, 'x', NAN, dict(optimizer=optimizer, clip_grad=NORM)) for optimizer in OPTIMIZERS[1:]]
    + [(bad, *ACCUMULATED, 'x', NAN, dict(accumulative_counts=2)) for bad in [(8,), (10,), (9, 11)]],
)
def test_a_skipped_update_leaves_no_trace(bad, without, counts, where, value, options, tmp_path):
    """A training with bad samples ends as one without their updates; counts are the numbers of skipped updates."""
    runner = build(tmp_path / 'bad', Batches(bad, where, value), **options)
    runner.train()
    assert runner.message_hub.get_scalar('train/skipped_updates').data[0].tolist() == counts
    expected = build(tmp_path / 'good', Subset(Batches(), without), **options)
    expected.train()
    state, other = state_of(runner), state_of(expected)
    assert state.keys() == other.keys()
    assert [key for key, tensor in other.items() if not torch.equal(state[key], tensor)] == []
    assert all(tensor.isfinite().all() for tensor in average_of(runner).state_dict().values())


def test_a_skipped_update_is_named_in_the_log_and_only_so_many_in_a_row_end_the_run(tmp_path):
    runner, messages = build(tmp_path, Batches((4, 5, 8, 12))), []
    runner.logger.warning = lambda message: messages.append(str(message))
    runner.train()
    skipped = [message for message in messages if 'skipped' in message]
    assert skipped == [f'update skipped: grad_norm and loss not finite at iteration {step}' for step in (3, 5, 7)]
    runner = build(tmp_path, Batches((4, 5, 6)))
    runner.hooks[0] = DeferredRuntimeInfoHook(max_skipped=2)
    with pytest.raises(NotFinite, match='2 updates in a row were skipped, the last for .* at iteration 4'):
        runner.train()


@pytest.mark.parametrize('log_interval', [1, 5, 50])
def test_three_in_a_row_end_the_run_at_the_next_log_or_save(log_interval, tmp_path):
    runner = build(tmp_path, Batches(range(4, 16)), log_interval=log_interval)
    with pytest.raises(NotFinite) as error:
        runner.train()
    assert str(error.value) == (
        '3 updates in a row were skipped, the last for grad_norm and loss not finite at iteration 5; the last good '
        f'checkpoint is {tmp_path / "iter_4.pth"}'
    )
    # Iteration 4's save, with two skipped, came before.
    assert line_model.names(tmp_path) == ['iter_2.pth', 'iter_4.pth']
    content = torch.load(tmp_path / 'iter_4.pth', weights_only=False)
    check_finite(content)
    assert {int(state['step']) for state in content['optimizer']['state'].values()} == {2}


@pytest.mark.parametrize('value', [NAN, INF])
@pytest.mark.parametrize('part', ['weight', 'statistic', 'moment', 'average'])
def test_a_tensor_that_is_not_finite_is_not_saved(part, value, tmp_path):
    """Wherever it comes from; the checkpoint before stays."""
    runner = build(tmp_path, Batches())
    save = runner.save_checkpoint

    def poison(*args, **kwargs):
        if runner.iter == 3:
            weight = runner.model.layers[0].weight
            tensors = dict(
                weight=weight,
                statistic=runner.model.layers[1].running_var,
                moment=runner.optim_wrapper.optimizer.state[weight]['exp_avg'],
                average=average_of(runner).module.layers[0].weight,
            )
            tensors[part].data.view(-1)[1] = value
        save(*args, **kwargs)

    runner.save_checkpoint = poison
    with pytest.raises(NotFinite, match='is not finite'):
        runner.train()
    assert line_model.names(tmp_path) == ['iter_2.pth'] and find_damage(tmp_path / 'iter_2.pth') is None
    assert (tmp_path / POINTER).read_text() == str(tmp_path / 'iter_2.pth')


@pytest.mark.parametrize('value', [-INF, NAN])
def test_a_constant_may_be_infinite_but_not_nan(value, tmp_path):
    runner, is_nan = build(tmp_path, Batches()), value != value
    runner.model.register_buffer('causal', torch.full((2, 2), value).triu(1))
    with pytest.raises(NotFinite, match=r'state_dict\.causal is not finite') if is_nan else nullcontext():
        runner.train()
    assert len(list(tmp_path.glob('*.pth'))) == (0 if is_nan else 4)
    check_finite(dict(state_dict=dict(large=torch.full((4,), 3e38), count=torch.tensor([2**62] * 4))))


def train_rank(rank: int) -> list[dict]:
    """Weights after each of three steps of two processes; the second one's loss is infinite in the second step."""
    model = Layers()
    parallel = DistributedDataParallel(model, broadcast_buffers=False)
    wrapper = AutocastOptimWrapper('float32', optimizer=torch.optim.AdamW(model.parameters(), lr=0.1, fused=True))
    steps = []
    for step in range(3):
        data = torch.randn(4, 4, generator=torch.Generator().manual_seed(10 * step + rank))
        bonus = torch.full((1,), INF if (rank, step) == (1, 1) else 0.0)
        with wrapper.optim_context(parallel):
            loss = parallel(data, bonus)['loss']
        wrapper.update_params(loss)
        steps.append({name: tensor.tolist() for name, tensor in model.state_dict().items()})
    return steps


def test_all_processes_skip_an_update_that_is_not_finite_in_one(tmp_path):
    """An infinite loss of one process, whose gradients are finite."""
    steps = together(2, tmp_path, train_rank)
    for rank in range(2):
        assert steps[rank][1] == steps[rank][0] and steps[rank][2] != steps[rank][1]
    weights = [{name: value for name, value in steps[rank][2].items() if 'running' not in name} for rank in range(2)]
    assert weights[0] == weights[1]
