"""Optimiser wrapper, annealing, metrics, and the checks before a run."""

import math
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import HOOKS, METRICS, OPTIM_WRAPPERS
from torch import nn

from beit_mm.checks import check_checkpoints, check_data
from beit_mm.engine import AnnealHook, AutocastOptimWrapper
from beit_mm.evaluation import MaskedTokenAccuracy, TokenizerMetric

# Optimiser wrapper


def wrapper_of(model, lr=0.1, **kwargs) -> AutocastOptimWrapper:
    return AutocastOptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=lr), **kwargs)


@pytest.mark.parametrize(
    'dtype, native, computed',
    [
        (None, True, torch.bfloat16),
        (None, False, torch.float32),
        ('auto', True, torch.bfloat16),
        ('auto', False, torch.float32),
        ('float32', True, torch.float32),
        ('bfloat16', False, torch.bfloat16),
    ],
)
def test_matrix_products_run_in_the_dtype_chosen(dtype, native, computed, monkeypatch):
    monkeypatch.setattr(torch.cpu, '_is_avx512_bf16_supported', lambda: native, raising=False)
    monkeypatch.setattr(torch.cpu, '_is_amx_tile_supported', lambda: False, raising=False)
    model = nn.Linear(4, 4)
    wrapper = wrapper_of(model, **({} if dtype is None else dict(dtype=dtype)))
    with wrapper.optim_context(model):
        output = model(torch.ones(2, 4))
        assert output.dtype == (torch.ones(2, 4) @ torch.ones(4, 4)).dtype == computed
    assert model(torch.ones(2, 4)).dtype == torch.float32


def test_bfloat16_needs_no_gradient_scaler():
    model = nn.Linear(4, 4)
    wrapper = wrapper_of(model, dtype='bfloat16')
    before = model.bias.clone()
    with wrapper.optim_context(model):
        loss = model(torch.ones(1, 4)).float().sum()
    wrapper.update_params(loss)
    torch.testing.assert_close(before - model.bias, torch.full((4,), 0.1))
    assert not hasattr(wrapper, 'loss_scaler')


@pytest.mark.parametrize('dtype', ['float16', 'half', None, ''])
def test_another_dtype_is_refused_naming_it(dtype):
    with pytest.raises(ValueError, match=f'float32.*, got {dtype!r}'):
        wrapper_of(nn.Linear(1, 1), dtype=dtype)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_accumulated_small_batches_equal_the_large_one(dtype):
    torch.manual_seed(0)
    large, small = nn.Linear(4, 3), nn.Linear(4, 3)
    small.load_state_dict(large.state_dict())
    inputs, targets = torch.randn(12, 4), torch.randn(12, 3)

    def step(wrapper, model, rows):
        with wrapper.optim_context(model):
            loss = (model(inputs[rows]).float() - targets[rows]).square().mean()
        wrapper.update_params(loss)

    wrapper = wrapper_of(large, dtype=dtype)
    step(wrapper, large, slice(None))
    step(wrapper, large, slice(None))
    wrapper = wrapper_of(small, dtype=dtype, accumulative_counts=3)
    wrapper.initialize_count_status(small, 0, 6)
    weights = []
    for update in range(6):
        step(wrapper, small, slice(update % 3 * 4, update % 3 * 4 + 4))
        weights.append(small.weight.clone())
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])
    tolerance = dict(float32=1e-6, bfloat16=1e-2)[dtype]
    torch.testing.assert_close(small.weight, large.weight, rtol=tolerance, atol=tolerance)


def test_gradients_are_clipped_to_the_norm_given():
    model = nn.Linear(4, 1, bias=False)
    before = model.weight.clone()
    wrapper = wrapper_of(model, lr=1.0, clip_grad=dict(max_norm=0.5))
    wrapper.update_params(model(torch.full((1, 4), 100.0)).sum())
    assert (before - model.weight).norm().item() == pytest.approx(0.5, rel=1e-4)


# Annealing


class Hub(dict):
    def update_scalar(self, name, value):
        self[name] = value


def runner_of(model, iteration=0):
    return SimpleNamespace(model=model, iter=iteration, message_hub=Hub())


@pytest.mark.parametrize(
    'iteration, value',
    [(0, 1.0), (25, 0.75 + 0.25 * math.sqrt(0.5)), (50, 0.75), (100, 0.5), (101, 0.5), (10_000, 0.5)],
)
def test_the_attribute_moves_along_half_a_cosine_by_the_iteration_alone(iteration, value):
    hook = AnnealHook('temperature', start=1.0, end=0.5, num_iters=100)
    model = nn.Identity()
    model.temperature = 7.0
    runner = runner_of(model, iteration)
    hook.before_train(runner)
    assert model.temperature == 7.0
    hook.before_train_iter(runner, batch_idx=3)
    assert model.temperature == pytest.approx(value) and hook.value_at(iteration) == model.temperature
    assert runner.message_hub == {'train/temperature': model.temperature}


def test_the_attribute_may_rise():
    hook = AnnealHook('kl_weight', start=0.0, end=6.6, num_iters=10)
    values = [hook.value_at(iteration) for iteration in range(12)]
    assert values[0] == 0 and values[10] == values[11] == 6.6 and values[5] == pytest.approx(3.3)
    assert values == sorted(values)


def test_the_attribute_of_a_wrapped_model_is_reached():
    model = nn.DataParallel(nn.Identity())
    model.module.temperature = 7.0
    hook = AnnealHook('temperature', start=1.0, end=0.5, num_iters=100)
    hook.before_train(runner_of(model))
    hook.before_train_iter(runner_of(model), batch_idx=0)
    assert model.module.temperature == 1.0 and not hasattr(model, 'temperature')


def test_an_attribute_that_the_model_lacks_is_refused_before_training():
    hook = AnnealHook('temprature', start=1.0, end=0.5, num_iters=100)
    with pytest.raises(ValueError, match="Identity has no 'temprature'"):
        hook.before_train(runner_of(nn.Identity()))


# Metrics


def test_masked_token_accuracy_counts_patches_of_all_images_together():
    metric = MaskedTokenAccuracy()
    samples = [
        dict(predicted=torch.tensor([3, 1, 1]), target=torch.tensor([3, 1, 0])),
        dict(predicted=torch.tensor([1]), target=torch.tensor([1])),
        dict(predicted=torch.tensor([2, 2, 2, 2]), target=torch.tensor([1, 1, 0, 3])),
    ]
    metric.process({}, samples[:1])
    metric.process({}, samples[1:])
    shares = [2 / 8, 4 / 8, 2 / 8]
    perplexity = math.exp(-sum(share * math.log(share) for share in shares))
    assert metric.evaluate(size=3) == pytest.approx(
        {
            'masked_token/accuracy': 100 * 3 / 8,
            'masked_token/most_frequent': 100 * 4 / 8,
            'masked_token/target_perplexity': perplexity,
        }
    )


def test_tokenizer_metric_averages_errors_and_joins_the_codes_of_all_images():
    metric = TokenizerMetric(vocab_size=8)
    metric.process({}, [dict(tokens=torch.tensor([[0, 0], [1, 2]]), squared_error=torch.tensor(0.03))])
    metric.process({}, [dict(tokens=torch.tensor([[0, 0], [1, 1]]), squared_error=torch.tensor(0.01))])
    shares = [4 / 8, 3 / 8, 1 / 8]
    assert metric.evaluate(size=2) == pytest.approx(
        {
            'tokenizer/psnr': 10 * math.log10(1 / 0.02),
            'tokenizer/used_codes': 100 * 3 / 8,
            'tokenizer/perplexity': math.exp(-sum(share * math.log(share) for share in shares)),
        },
        rel=1e-5,
    )


def test_samples_repeated_to_fill_the_last_batch_do_not_count():
    metric = MaskedTokenAccuracy()
    right, wrong = (dict(predicted=torch.tensor([1]), target=torch.tensor([target])) for target in (1, 0))
    metric.process({}, [right, wrong, wrong])
    assert metric.evaluate(size=2)['masked_token/accuracy'] == 50


def test_configs_build_them_under_their_scope():
    assert isinstance(METRICS.build(dict(type='beit_mm.TokenizerMetric', vocab_size=8)), TokenizerMetric)
    assert isinstance(METRICS.build(dict(type='beit_mm.MaskedTokenAccuracy')), MaskedTokenAccuracy)
    hook = HOOKS.build(dict(type='beit_mm.AnnealHook', attribute='temperature', start=1, end=0, num_iters=2))
    assert isinstance(hook, AnnealHook) and hook.value_at(1) == 0.5
    assert OPTIM_WRAPPERS.get('beit_mm.AutocastOptimWrapper') is AutocastOptimWrapper


# Checks


@pytest.fixture
def data(tmp_path):
    """A data set as the configs below name it."""
    for folder in ('train', 'images/training', 'annotations/training', 'meta'):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / 'file').touch()
        (tmp_path / folder / 'picture.jpg').touch()
        (tmp_path / folder / 'labels.png').touch()
    (tmp_path / 'checkpoint.pth').touch()
    return tmp_path


def loader(data, **kwargs) -> dict:
    return dict(dataset=dict(type='Any', data_root=str(data), **kwargs))


GOOD = [
    dict(),
    dict(data_prefix='train'),
    dict(split='train'),
    dict(data_prefix=dict(img_path='images/training', seg_map_path='annotations/training')),
    dict(data_prefix='train', ann_file='meta/file'),
    dict(data_prefix=dict(img_path='train'), ann_file=''),
]


@pytest.mark.parametrize('dataset', GOOD)
def test_data_that_is_there_passes(data, dataset):
    cfg = Config(dict(train_dataloader=loader(data, **dataset), val_dataloader=None))
    check_data(cfg, ('train_dataloader', 'val_dataloader', 'test_dataloader'))


@pytest.mark.parametrize(
    'dataset, missing',
    [
        (dict(data_prefix='trian'), 'trian'),
        (dict(split='val'), 'val'),
        (dict(data_prefix=dict(img_path='images/training', seg_map_path='annotations/val')), 'annotations/val'),
    ],
)
def test_a_missing_folder_is_named_with_its_key(data, dataset, missing):
    cfg = Config(dict(train_dataloader=loader(data, **dataset)))
    with pytest.raises(FileNotFoundError) as error:
        check_data(cfg, ('train_dataloader',))
    assert str(error.value) == f'train_dataloader.dataset names a data folder that does not exist: {data / missing}'


def test_a_missing_root_is_named_with_its_key(data):
    cfg = Config(dict(val_dataloader=loader(data / 'nowhere', data_prefix='train')))
    with pytest.raises(FileNotFoundError) as error:
        check_data(cfg, ('val_dataloader',))
    assert str(error.value) == f'val_dataloader.dataset names a data folder that does not exist: {data / "nowhere"}'


def test_an_empty_folder_is_named_with_its_key(data):
    for file in (data / 'train').iterdir():
        file.unlink()
    (data / 'train' / 'class_without_pictures').mkdir()
    cfg = Config(dict(train_dataloader=loader(data, data_prefix='train')))
    with pytest.raises(FileNotFoundError) as error:
        check_data(cfg, ('train_dataloader',))
    assert str(error.value) == f'train_dataloader.dataset names a data folder without any file: {data / "train"}'


def test_a_segmentation_folder_without_files_of_its_kind_is_named(data):
    prefix = dict(img_path='images/training', seg_map_path='annotations/training')
    cfg = Config(dict(train_dataloader=loader(data, data_prefix=prefix, img_suffix='.tif')))
    with pytest.raises(FileNotFoundError, match='train_dataloader.dataset .* without any .tif file: .*images/training'):
        check_data(cfg, ('train_dataloader',))
    (data / 'annotations' / 'training' / 'labels.png').unlink()
    cfg = Config(dict(train_dataloader=loader(data, data_prefix=prefix)))
    with pytest.raises(FileNotFoundError, match='without any .png file: .*annotations/training'):
        check_data(cfg, ('train_dataloader',))


def test_a_missing_annotation_file_is_named_with_its_key(data):
    cfg = Config(dict(train_dataloader=loader(data, data_prefix='train', ann_file='meta/train.txt')))
    with pytest.raises(FileNotFoundError) as error:
        check_data(cfg, ('train_dataloader',))
    assert str(error.value) == (
        f'train_dataloader.dataset.ann_file names a file that does not exist: {data / "meta" / "train.txt"}'
    )


def test_data_sets_within_data_sets_are_looked_at(data):
    inner = [dict(type='Any', data_root=str(data)), dict(type='Any', data_root=str(data / 'nowhere'))]
    cfg = Config(
        dict(
            train_dataloader=dict(
                dataset=dict(type='RepeatDataset', dataset=dict(type='ConcatDataset', datasets=inner))
            )
        )
    )
    with pytest.raises(FileNotFoundError, match='train_dataloader.dataset.dataset.datasets.1 names .*nowhere'):
        check_data(cfg, ('train_dataloader',))


def test_only_the_loaders_in_use_are_looked_at(data):
    cfg = Config(dict(train_dataloader=loader(data), test_dataloader=loader(data / 'nowhere')))
    check_data(cfg, ('train_dataloader',))
    with pytest.raises(FileNotFoundError):
        check_data(cfg, ('test_dataloader',))


@pytest.mark.parametrize('remote', ['s3://bucket/imagenet', 'petrel://imagenet'])
def test_data_elsewhere_is_not_looked_for(remote):
    check_data(Config(dict(train_dataloader=loader(remote, data_prefix='train'))), ('train_dataloader',))


def test_checkpoints_that_are_there_pass(data):
    path = str(data / 'checkpoint.pth')
    check_checkpoints(
        Config(
            dict(
                load_from=path,
                model=dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=path, prefix='backbone.'))),
            )
        )
    )
    check_checkpoints(Config(dict(load_from=None, model=dict(backbone=dict(init_cfg=dict(type='Normal', std=0.1))))))
    check_checkpoints(Config(dict(load_from='https://example.com/a.pth', model=None)))


@pytest.mark.parametrize('path', ['nowhere.pth', ''], ids=['no file', 'a folder'])
def test_a_missing_checkpoint_is_named_with_its_key(data, path):
    missing = str(data / path)
    with pytest.raises(FileNotFoundError) as error:
        check_checkpoints(Config(dict(load_from=missing)))
    assert str(error.value) == f'load_from names a checkpoint that does not exist: {missing}'
    part = dict(init_cfg=[dict(type='Normal'), dict(type='Pretrained', checkpoint=missing)])
    with pytest.raises(FileNotFoundError) as error:
        check_checkpoints(Config(dict(model=dict(target=dict(tokenizer=part)))))
    assert str(error.value) == (
        f'model.target.tokenizer.init_cfg.1.checkpoint names a checkpoint that does not exist: {missing}'
    )
