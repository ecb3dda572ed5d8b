"""What FullyShardedStrategy does with a model, without a training around it."""

from pathlib import Path

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from mmengine.registry import DefaultScope
from support.processes import together
from torch.distributed.tensor import DTensor

from beit_mm.engine import FullyShardedStrategy
from beit_mm.engine.runners import fully_sharded
from beit_mm.engine.runners.fully_sharded import gather
from beit_mm.errors import UserError

TRUNK = dict(
    type='beit_mm.BEiT',
    **dict(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, drop_path_rate=0.0),
    layer_scale_init_value=20.0,  # so that blocks count for much
    use_rel_pos_bias=True,
    out_type='avg_featmap',
)
CLASSIFIER = dict(
    type='mmpretrain.ImageClassifier',
    backbone=TRUNK,
    head=dict(type='mmpretrain.LinearClsHead', num_classes=4, in_channels=32),
)
PRETRAINING = dict(
    type='beit_mm.MaskedImageModel',
    backbone=dict(TRUNK, out_type='raw', use_rel_pos_bias=False, use_shared_rel_pos_bias=True, use_mask_token=True),
    target=dict(
        type='beit_mm.VisualTokens',
        tokenizer=dict(type='beit_mm.DiscreteVAE', vocab_size=16, n_hid=8, n_init=8, blocks_per_group=1),
    ),
)
OPTIMISER = dict(
    type='beit_mm.AutocastOptimWrapper',
    dtype='float32',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05, fused=True),
    constructor='beit_mm.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.5),
)


def prepare(folder: Path, processes: int, model: dict = CLASSIFIER, **options) -> FullyShardedStrategy:
    DefaultScope.get_instance('sharded', scope_name='mmpretrain')
    strategy = FullyShardedStrategy(
        work_dir=str(folder),
        log_kwargs=dict(log_level='ERROR'),
        env_kwargs=dict(launcher='pytorch' if processes > 1 else 'none', randomness=dict(seed=0)),
        **options,
    )
    strategy.prepare(model, optim_wrapper=dict(OPTIMISER, optimizer=dict(OPTIMISER['optimizer'])))
    return strategy


def shares(strategy: FullyShardedStrategy) -> tuple[int, int]:
    """Numbers of trained parameters of this process and of the whole model."""
    parameters = [parameter for parameter in strategy.model.parameters() if parameter.requires_grad]
    own = [p.to_local() if isinstance(p, DTensor) else p for p in parameters]
    return sum(p.numel() for p in own), sum(p.numel() for p in parameters)


def inspect(rank: int, folder: Path) -> dict:
    """A strategy of two processes; the first saves without the other."""
    strategy = prepare(folder, 2, PRETRAINING, save_timeout=0.5)
    parameters = dict(strategy.model.named_parameters())
    with pytest.raises(AssertionError, match='does not support deepcopy'):
        ExponentialMovingAverage(strategy.model)
    missing = ''
    if rank == 0:
        with pytest.raises(RuntimeError) as caught:
            strategy.save_checkpoint(str(folder / 'alone.pth'))
        missing = str(caught.value).split('rank')[-1]
    return dict(
        names=sorted(parameters),
        layers=[group['layer'] for group in strategy.optim_wrapper.optimizer.param_groups],
        trainable=shares(strategy),
        frozen=[type(p) is torch.nn.Parameter for name, p in parameters.items() if name.startswith('target')],
        missing=missing,
    )


def test_a_process_holds_its_share_of_what_is_trained_and_all_that_is_frozen(tmp_path):
    """Torch refuses to copy the model, and an error names the process that does not take part in a save."""
    first, second = together(2, tmp_path, inspect, tmp_path)
    own = [result['trainable'][0] for result in (first, second)]
    assert sum(own) == first['trainable'][1] and abs(own[0] - own[1]) < 0.1 * own[0]
    assert first['frozen'] and all(first['frozen'])
    assert '1' in first['missing'] and not list(tmp_path.glob('*.pth'))
    strategy = prepare(tmp_path, 1, PRETRAINING)
    assert first['names'] == sorted(name for name, _ in strategy.model.named_parameters())
    assert first['layers'] == [group['layer'] for group in strategy.optim_wrapper.optimizer.param_groups]
    assert not any(isinstance(parameter, DTensor) for parameter in strategy.model.parameters())


def test_a_torch_that_cannot_leave_frozen_parameters_whole_is_named(tmp_path, monkeypatch):
    """As torch 2.6."""
    monkeypatch.setattr(fully_sharded, 'fully_shard', lambda module, *, mesh, reshard_after_forward, mp_policy: None)
    strategy = prepare(tmp_path, 1, PRETRAINING)
    with pytest.raises(UserError, match='frozen parameters, got torch .*: update torch'):
        strategy._shard(strategy.model)


def train_three_steps(rank: int, folder: Path, processes: int, model: dict, options: dict) -> dict:
    strategy = prepare(folder, processes, model, **options)
    dtypes = set()
    strategy.model.backbone.blocks[1].mlp.fc1.register_forward_pre_hook(
        lambda module, inputs: dtypes.add((module.weight.dtype, type(module.weight) is torch.nn.Parameter))
    )
    images = torch.randn(3, 4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    own = images[:, rank::processes]
    losses = []
    for batch in own:  # updates towards images of class 1
        with strategy.optim_wrapper.optim_context(strategy.model):
            logits = strategy.model(batch, mode='tensor')
            loss = torch.nn.functional.cross_entropy(logits, torch.ones(len(batch), dtype=int))
        strategy.optim_wrapper.update_params(loss)
        losses.append(loss.detach())
    with torch.no_grad():  # as KNNHook and the test loop do
        strategy.model.eval()
        logits = strategy.model(images[0], mode='tensor')
        features = strategy.model.backbone(images[0])[-1]
    moments = {index: state['exp_avg'] for index, state in strategy.optim_state_dict()['state'].items()}
    return dict(
        weights=gather(strategy.model.state_dict()),
        moments=gather(moments),
        losses=losses,
        features=features,
        logits=logits,
        dtypes=dtypes,
        stored={(value.dtype, value.grad is None or value.grad.dtype) for value in strategy.model.parameters()},
        shares=shares(strategy),
    )


def trained(folder: Path, processes: int, with_cp: bool = False, **options) -> list:
    model = dict(CLASSIFIER, backbone=dict(TRUNK, with_cp=with_cp))
    return together(processes, folder, train_three_steps, folder, processes, model, options)


@pytest.fixture(scope='module')
def whole(tmp_path_factory) -> dict:
    """One process with all images."""
    return trained(tmp_path_factory.mktemp('whole'), 1)[0]


def difference(part: dict, whole: dict) -> float:
    """Norm of the difference over the norm, all tensors together."""
    flat = [torch.cat([tensors[key].flatten().double() for key in whole]) for tensors in (part, whole)]
    return ((flat[0] - flat[1]).norm() / flat[1].norm()).item()


def assert_as_one_process(results: list, whole: dict, tolerance: float = 1e-5) -> None:
    assert difference(results[0]['moments'], whole['moments']) < tolerance
    assert difference(results[0]['weights'], whole['weights']) < tolerance
    losses = torch.tensor([result['losses'] for result in results]).mean(dim=0)
    torch.testing.assert_close(losses, torch.tensor(whole['losses']), rtol=tolerance, atol=0)
    for result in results:
        for key in ('features', 'logits'):
            assert difference({key: result[key]}, {key: whole[key]}) < tolerance


@pytest.mark.parametrize('options', [{}, dict(with_cp=True), dict(reshard_after_forward=False)], ids=str)
def test_shards_train_as_one_process_with_all_images(options, whole, tmp_path):
    results = trained(tmp_path, 2, **options)
    assert_as_one_process(results, whole)
    assert results[0]['dtypes'] == {(torch.float32, True)}, 'whole while the block computes'


def test_two_machines_each_hold_the_model_once(whole, tmp_path):
    results = trained(tmp_path, 4, num_shards=2)
    assert_as_one_process(results, whole)
    for rank in (0, 1):
        assert results[rank]['shares'] == results[rank + 2]['shares']
    assert sum(results[rank]['shares'][0] for rank in (0, 1)) == results[0]['shares'][1]


def test_blocks_compute_in_bfloat16_and_are_kept_in_float32(whole, tmp_path):
    results = trained(tmp_path, 2, block_dtype='bfloat16')
    assert results[0]['dtypes'] == {(torch.bfloat16, True)} and results[0]['stored'] == {(torch.float32, True)}
    assert difference(results[0]['moments'], whole['moments']) > 1e-4
    assert_as_one_process(results, whole, tolerance=2e-2)


def test_what_cannot_be_sharded_is_named(tmp_path):
    with pytest.raises(ValueError, match="float32, bfloat16, got 'float16'"):
        prepare(tmp_path, 1, block_dtype='float16')
    with pytest.raises(ValueError, match='num_shards must divide the 1 processes, got 2'):
        prepare(tmp_path, 1, num_shards=2)
    strategy = prepare(tmp_path, 1)
    with pytest.raises(ValueError, match='needs a backbone with blocks, got Linear'):
        strategy._shard(torch.nn.Linear(1, 1))


def predict_twice(rank: int, folder: Path, processes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses of three steps of BEiT v2's pre-training, and features of the trunk, which KNNHook calls alone."""
    strategy = prepare(folder, processes, dict(PRETRAINING, bottleneck=dict(early_layers=1, head_layers=2)))
    generator = torch.Generator().manual_seed(1)
    images, views = (torch.rand(4, 3, 32, 32, generator=generator) for _ in range(2))
    mask = (torch.rand(4, 4, generator=generator) > 0.5).expand(4, 4, 4)
    losses = []
    for _ in range(3):
        own = (part[rank::processes] for part in (images, views, mask))
        with strategy.optim_wrapper.optim_context(strategy.model):
            loss, _ = strategy.model.parse_losses(strategy.model(*own, mode='loss'))
        strategy.optim_wrapper.update_params(loss)
        losses.append(loss.detach())
    with torch.no_grad():
        return torch.stack(losses), strategy.model.eval().backbone(images)[-1]


def test_two_predictions_on_shards_are_those_of_one_process(tmp_path):
    (whole,) = together(1, tmp_path / 'one', predict_twice, tmp_path / 'one', 1)
    first, second = together(2, tmp_path / 'two', predict_twice, tmp_path / 'two', 2)
    torch.testing.assert_close((first[0] + second[0]) / 2, whole[0])
    torch.testing.assert_close(first[1], whole[1], rtol=1e-3, atol=1e-4)
