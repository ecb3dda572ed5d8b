"""Batch, workers, forecast and the file of settings."""

import pytest
from mmengine.config import Config
from support import CONFIGS

from beit_mm.doctor import advice
from beit_mm.doctor.advice import choose_batch, choose_workers, count_images
from beit_mm.doctor.speed import measure_sums
from beit_mm.doctor.tuning import Size

GIB = 2**30


def config(**changes) -> Config:
    cfg = dict(
        train_dataloader=dict(batch_size=256, dataset=dict(data_root='data/imagenet/')),
        optim_wrapper=dict(),
        auto_scale_lr=dict(base_batch_size=2048),
        train_cfg=dict(max_epochs=800),
    )
    return Config({**cfg, **changes})


SIZES = [Size(2, 0.1, GIB + 2 * GIB // 4), Size(4, 0.2, GIB + 4 * GIB // 4)]  # 1 GiB and 0.25 GiB per image


def test_accumulation_makes_the_recipes_batch():
    assert choose_batch(config(), 8, SIZES, 100 * GIB, 2 * GIB) == advice.Batch(256, 1)
    assert choose_batch(config(), 1, SIZES, 100 * GIB, 2 * GIB) == advice.Batch(256, 8)
    assert choose_batch(config(), 1, SIZES, 40 * GIB, 2 * GIB) == advice.Batch(128, 16)


def test_more_images_are_chosen_if_they_were_faster():
    cfg = config(train_dataloader=dict(batch_size=2), auto_scale_lr=dict(base_batch_size=8))
    slow, fast = [*SIZES, Size(8, 0.4, 3 * GIB)], [*SIZES, Size(8, 0.3, 3 * GIB)]
    assert choose_batch(cfg, 1, slow, 100 * GIB, GIB) == advice.Batch(2, 4)
    assert choose_batch(cfg, 1, fast, 100 * GIB, GIB) == advice.Batch(8, 1)
    assert choose_batch(cfg, 1, fast, 3 * GIB, GIB) == advice.Batch(2, 4)


def test_the_recipes_own_accumulation_counts():
    cfg = config(optim_wrapper=dict(accumulative_counts=2), auto_scale_lr=dict(base_batch_size=512))
    cfg = Config(cfg.to_dict(), cfg_text='/a.py\nauto_scale_lr = 1\noptim_wrapper = dict(accumulative_counts=2)\n')
    assert choose_batch(cfg, 2, SIZES, 400 * GIB, GIB) == advice.Batch(256, 2)


def test_too_little_memory_is_named():
    problem = choose_batch(config(), 1, SIZES, 3 * GIB, 2 * GIB).problem
    assert str(problem).startswith('memory: a step of 2 images takes 3.5 GiB, 3.0 GiB are free; set model.backbone.')


def test_memory_that_is_estimated_is_a_warning():
    for sizes, is_whole in ((SIZES, False), (SIZES[:1], True)):
        problem = choose_batch(config(), 1, sizes, 3 * GIB, 2 * GIB, is_whole).problem
        assert not problem.is_error and str(problem).startswith(
            'memory: by an estimate a step of 2 images takes 3.5 GiB'
        )


def test_devices_that_do_not_divide_the_batch_are_named():
    problem = choose_batch(config(), 3, SIZES, 100 * GIB, GIB).problem
    assert str(problem).startswith("batch: 3 devices do not divide the recipe's 2048 images per update; ")


def test_a_loader_that_starves_the_device_is_named():
    workers, problem = choose_workers(rate=2000, per_core=700, cores=16, devices=8)
    assert workers == 2
    assert str(problem) == (
        'loading: 16 cores load 11200 images/s, 8 device(s) take 16000: the loader starves the device; use more cores, '
        'smaller files (docs/data.md), or fewer devices'
    )
    assert choose_workers(2000, 700, 96, 8) == (5, None)
    assert choose_workers(2, 700, 2, 1) == (1, None)


def test_images_of_a_training():
    assert count_images(config(), 2048) == 800 * 1_281_167
    assert count_images(config(train_cfg=dict(max_iters=160_000)), 16) == 2_560_000
    assert count_images(config(train_dataloader=dict(dataset=dict(data_root='mine'))), 8) is None


def test_the_file_inherits_the_config_and_says_why(tmp_path):
    settings = {
        'model.backbone.compile_blocks': (True, '1.30 times as fast'),
        'train_dataloader.batch_size': (128, '70 of 80 GiB'),
        'default_hooks.machine.attention': (['math'], 'the others are wrong here'),
    }
    path = tmp_path / 'folder' / 'machine.py'
    machine = dict(device='a', torch='b', beit_mm='c')
    advice.write_machine(path, str(CONFIGS / 'beit_pretrain.py'), settings, machine, ['Written by the doctor.', ''])
    text = path.read_text()
    assert text.startswith('# Written by the doctor.\n#\n_base_ = ')
    assert 'compile_blocks=True,  # 1.30 times as fast\n' in text
    cfg, base = Config.fromfile(path), Config.fromfile(CONFIGS / 'beit_pretrain.py')
    assert cfg.model.backbone.compile_blocks and cfg.train_dataloader.batch_size == 128
    hook = cfg.default_hooks.pop('machine')
    assert hook == dict(type='beit_mm.MachineHook', attention=['math'], machine=machine)
    cfg.model.backbone.pop('compile_blocks')
    cfg.train_dataloader.batch_size = 256
    assert cfg.to_dict() == base.to_dict()


@pytest.mark.parametrize(
    'sizes, expected', [(SIZES, (GIB, GIB / 4)), (SIZES[:1], (0, 0.75 * GIB)), ([Size(1, 1, None)], (0, 0))]
)
def test_memory_is_a_constant_and_a_share_of_each_image(sizes, expected):
    assert advice.fit_memory(sizes) == pytest.approx(expected)


@pytest.mark.long
def test_sums_over_processes_are_measured():
    """As over GPUs; here by gloo between two processes."""
    assert measure_sums(2, 'gloo', megabytes=8, rounds=2) > 1e6
