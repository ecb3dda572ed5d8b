"""The command: its report, its file, and one sentence for what it cannot do."""

import json

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import HOOKS
from support import ROOT
from support.tools import command, tool

from beit_mm.checks.config_check import isolated
from beit_mm.config.reading import read_config
from beit_mm.doctor import attention, speed, tuning
from beit_mm.doctor.steps import Subject

CONFIG = 'configs/demo/pretrain.py'


@pytest.fixture
def quick(monkeypatch):
    """Few cases, small figures, no compilation."""
    monkeypatch.setattr(attention, 'LENGTHS', (64,))
    monkeypatch.setattr(speed, 'measure_products', lambda *_: dict(float32=1e11, bfloat16=2e11))
    monkeypatch.setattr(speed, 'measure_memory', lambda *_: 1e10)
    monkeypatch.setattr(tuning, 'COMPILING', 1e6)
    monkeypatch.setattr(tuning, 'MAX_STEP', 0.05)
    monkeypatch.chdir(ROOT)


def test_a_config_is_measured_and_its_settings_are_written(quick, tmp_path, capsys):
    command('doctor', '--config', CONFIG, '--out', tmp_path / 'machine.py', '--json')
    result = json.loads(capsys.readouterr().out)
    assert result['problems'] == [] and {verdict['status'] for verdict in result['verdicts']} == {
        'OK',
        'fixed',
        'refused',
    }
    step = result['step']
    assert step['rate'] > 0 and step['memory'] > 0 and step['operations'] > 1e6 and step['hours'] is None
    names = [trial['name'] for trial in step['trials']]
    assert 'compiled blocks' in names and 'compiled tokenizer' in names
    cfg = Config.fromfile(tmp_path / 'machine.py')
    assert HOOKS.build(cfg.default_hooks.machine).attention is None
    assert cfg.train_dataloader.num_workers >= 1 and cfg.model.type == 'beit_mm.MaskedImageModel'


@pytest.mark.parametrize('config', ['configs/demo/finetune.py', 'configs/demo/segment.py'])
def test_classifiers_and_segmentors_are_measured(config, quick, capsys):
    command('doctor', '--config', config)
    output = capsys.readouterr().out
    sections = ['What is here', 'Is it right', 'How fast is the machine', 'How fast is the config', 'What to do']
    assert [line for line in output.splitlines() if line and line[0] != ' '] == sections
    assert max(map(len, output.splitlines())) <= 140 and 'forecast' in output and 'ERROR' not in output


def fault_everywhere(*_):
    return {attention.AS_TORCH_CHOOSES: lambda q, k, v, bias: attention.exact(q, k, v, 0 * bias)}


def test_a_wrong_kernel_ends_with_exit_code_1(quick, monkeypatch, capsys):
    monkeypatch.setattr(attention, 'kernels', fault_everywhere)
    with pytest.raises(SystemExit, match='1'):
        command('doctor')
    output = capsys.readouterr().out
    assert 'WRONG at 64 tokens' in output
    assert 'ERROR' in output and 'attention in float32 at 64 tokens: the output is off by' in output


def test_the_file_names_the_kernels_that_are_right(quick, monkeypatch, tmp_path, capsys):
    healthy = attention.kernels(False, None)['math']
    monkeypatch.setattr(attention, 'kernels', lambda *_: {**fault_everywhere(), 'math': healthy})
    with pytest.raises(SystemExit, match='1'):
        command('doctor', '--config', CONFIG, '--out', tmp_path / 'machine.py')
    assert Config.fromfile(tmp_path / 'machine.py').default_hooks.machine.attention == ['math']
    assert "['math']: others are wrong here" in capsys.readouterr().out


RESNET = """model = dict(type='ImageClassifier', backbone=dict(type='ResNet', depth=18))
default_scope = 'mmpretrain'
train_dataloader = dict(dataset=dict(type='ImageNet'))
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))"""
BAD = {
    'a device': (['--device', 'cuda:77'], '--device must be cpu, or cuda or cuda:N of '),
    'no device': (['--device', 'gpu'], '--device must be cpu, or cuda or cuda:N of '),
    'a meta device': (['--device', 'meta'], '--device must be cpu, or cuda or cuda:N of '),
    'no config': (['--out', 'machine.py'], '--out needs --config, the config that it inherits'),
    'no trunk of ours': (['--config', 'resnet.py'], 'must have a trunk of ours, beit_mm.BEiT, got ResNet'),
    'no training': (['--config', 'empty.py'], 'must have a train_dataloader and an optim_wrapper to measure its step'),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_input_is_one_sentence(name, tmp_path, monkeypatch, capsys):
    words, sentence = BAD[name]
    (tmp_path / 'resnet.py').write_text(RESNET)
    (tmp_path / 'empty.py').write_text("model = dict(type='beit_mm.BEiT')\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match='1'):
        command('doctor', *words)
    assert sentence in capsys.readouterr().err.splitlines()[-1]


def test_too_little_memory_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr('beit_mm.doctor.steps.free_memory', lambda device: 2**20)
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit, match='1'):
        command('doctor', '--config', CONFIG)
    last = capsys.readouterr().err.splitlines()[-1]
    assert 'GiB for weights, gradients and AdamW, 0.0 GiB are free on cpu; take a smaller model' in last


def test_a_config_that_compiles_without_a_compiler_is_named(quick, monkeypatch, tmp_path, capsys):
    text = f"_base_ = '{ROOT / CONFIG}'\nmodel = dict(backbone=dict(compile_blocks=True))"
    (tmp_path / 'compiled.py').write_text(text)
    monkeypatch.setattr('beit_mm.doctor.machine.find_compiler', lambda device: None)
    with pytest.raises(SystemExit, match='1'):
        command('doctor', '--config', tmp_path / 'compiled.py')
    output = capsys.readouterr().out
    assert 'model.backbone.compile_blocks=True needs a compiler, and there is none; install g++' in output


@pytest.mark.long
def test_the_whole_command_takes_two_minutes(tmp_path):
    output = tool('beit-mm', 'doctor', '--config', str(ROOT / CONFIG), '--out', str(tmp_path / 'machine.py'))
    assert 'nothing is wrong' in output


def test_every_update_of_a_step_has_the_same_numbers(tmp_path, monkeypatch):
    """Also the tenth, after which the optimizer wrapper hands its scalars on."""
    monkeypatch.chdir(ROOT)
    cfg = read_config(CONFIG)
    with isolated(cfg.default_scope):
        step = Subject(cfg, torch.device('cpu'), tmp_path).build({}, 2)
        first, *others = [step.numbers() for _ in range(12)]
    assert set(first) == {'loss', 'gradient'} and all(numbers == first for numbers in others)
