"""What is known of machines, and settings that a run takes or refuses."""

import pytest
import torch
from support import CONFIGS
from support.tools import command, data_options, train

from beit_mm.doctor import machine
from beit_mm.doctor.advice import write_machine
from beit_mm.engine import MachineHook
from beit_mm.engine.hooks.machine_hook import allow_kernels, describe_machine, KERNELS
from beit_mm.errors import UserError

GPU = dict(kind='cuda', capability=(9, 0), architectures=['sm_80', 'sm_90'], bfloat16=True)
BAD = {
    'no CUDA build': (dict(kind='cpu', has_nvidia=True, cuda=None), 'torch: torch 2.14.0 is built without CUDA, but'),
    'an old driver': (
        dict(kind='cpu', has_nvidia=True, driver='470.1'),
        'driver: torch is built for CUDA 13.0, but finds',
    ),
    'a new GPU': (dict(GPU, capability=(12, 0)), 'torch: is built for sm_80, sm_90, not for sm_120; install'),
    'cuDNN on Hopper': (GPU, 'attention: cuDNN attention with a bias can give NaN gradients'),
    'no bfloat16': (
        dict(GPU, capability=(8, 0), bfloat16=False),
        'device: has no bfloat16, so recipes train in float32',
    ),
    'too many threads': (dict(threads=64), 'threads: torch uses 64 threads on 2 cores'),
    'little shared memory': (dict(shared_memory=64 * 2**20), '/dev/shm: has only 64 MiB'),
    'mixed builds': (
        dict(torch='2.14.0+cpu', torchvision='0.29.0+cu130'),
        'torchvision: 0.29.0+cu130 is not of the same',
    ),
}


@pytest.fixture
def facts() -> dict:
    known = dict(kind='cpu', torch='2.14.0', torchvision='0.29.0', cuda='13.0', threads=2, cores=2, shared_memory=2**33)
    return {**known, **dict.fromkeys(machine.HOSTS, '1.0')}


@pytest.mark.parametrize('name', BAD)
def test_a_bad_combination_is_named(name, facts):
    changes, words = BAD[name]
    (problem,) = machine.known_problems({**facts, **changes})
    assert str(problem).startswith(words) and ';' in str(problem)


def test_this_machine_is_described(facts):
    found = machine.describe(torch.device('cpu'))
    assert set(facts) <= set(found) and 'unknown' not in found.values()
    assert 0 < found['free_memory'] <= found['memory'] and found['cores'] >= 1
    assert list(machine.known_problems(facts)) == []


def test_settings_of_another_machine_are_refused():
    here = describe_machine()
    MachineHook(here)
    for name in here:
        with pytest.raises(UserError, match=f'measured elsewhere .*, here {name} is .*: run `beit-mm doctor --config'):
            MachineHook({**here, name: 'another'})
    with pytest.raises(UserError, match='must name kernels of math, flash, efficient, cudnn, got '):
        MachineHook(here, attention=['fast'])


def test_attention_of_a_run_takes_the_kernels_of_the_hook():
    hook = MachineHook(describe_machine(), attention=['math', 'efficient'])
    try:
        hook.before_run(None)
        enabled = torch.backends.cuda
        assert enabled.math_sdp_enabled() and enabled.mem_efficient_sdp_enabled()
        assert not enabled.flash_sdp_enabled() and not enabled.cudnn_sdp_enabled()
    finally:
        allow_kernels(list(KERNELS))


def test_the_early_check_refuses_settings_of_another_machine(tmp_path, capsys):
    text = f"""_base_ = '{CONFIGS / 'demo' / 'pretrain.py'}'
default_hooks = dict(machine=dict(type='beit_mm.MachineHook', machine=dict(device='H200', torch='9', beit_mm='1')))"""
    (tmp_path / 'machine.py').write_text(text)
    with pytest.raises(SystemExit, match='1'):
        command('check', tmp_path / 'machine.py')
    output = capsys.readouterr().out
    assert 'error: default_hooks.machine.machine.device: MachineHook: these settings were measured elsewhere' in output


def test_a_training_runs_with_the_written_file(digits, tmp_path):
    """Two updates of two accumulated steps, under the hook and with the chosen kernels."""
    settings = {
        'train_dataloader.batch_size': (4, 'memory'),
        'optim_wrapper.accumulative_counts': (2, 'the batch'),
        'default_hooks.machine.attention': (['math'], 'others are wrong'),
        'train_cfg.max_iters': (4, ''),
    }
    config = tmp_path / 'machine.py'
    write_machine(config, str(CONFIGS / 'demo' / 'tokenizer.py'), settings, describe_machine(), ['Of a test.'])
    options = dict(pair.split('=') for pair in data_options(digits) if 'batch_size' not in pair)
    options |= {name: 0 for name in options if name.endswith('num_workers')}
    small = {'model.n_hid': 8, 'model.n_init': 8, 'val_dataloader.batch_size': 4}
    try:
        train(config, tmp_path / 'work_dir', cfg_options={**options, **small}, no_validate=True)
        assert not torch.backends.cuda.flash_sdp_enabled()
    finally:
        allow_kernels(list(KERNELS))
    assert (tmp_path / 'work_dir' / 'iter_4.pth').is_file()
