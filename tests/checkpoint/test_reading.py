"""Weights files: what honest ones give, and that no file gets to execute anything."""
import argparse
import contextlib
import gzip
import os
import pickle
import shutil
import subprocess
import sys
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import mmengine
import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.runner import CheckpointLoader, Runner, load_checkpoint
from mmengine.runner.checkpoint import get_torch_safe_globals
from safetensors.torch import save_file

from beit_mm.checkpoint import read_checkpoint

DATA = Path(__file__).parents[1] / 'reference' / 'data'


class Call:
    """Pickles as a call of ``func``; may itself stand for a function."""

    def __init__(self, func, *args):
        self.func, self.args = func, args

    def __reduce__(self):
        return self.func, self.args

    def __call__(self):
        raise AssertionError('only pickled')


def body(value):
    """The opcodes that leave ``value`` on the stack, without the header and the stop."""
    return pickle.dumps(value, protocol=2)[2:-1]


def program(*opcodes):
    return b'\x80\x02' + b''.join(opcodes) + b'.'


def built(cls, *states):
    """An object of ``cls`` that takes one state after another, which no pickler would write."""
    return program(body(Call(cls)), *(body(state) + b'b' for state in states))


def write(path, content, form):
    """Store a pickle as torch.save would ('zip'), or bare ('raw')."""
    if form == 'raw':
        path.write_bytes(content)
    else:
        with zipfile.ZipFile(path, 'w', zipfile.ZIP_STORED) as archive:
            archive.writestr('archive/data.pkl', content)
            archive.writestr('archive/version', '3\n')
            archive.writestr('archive/byteorder', sys.byteorder)
    return str(path)


def forged_array(folder, code):
    """An object array whose dtype drops its object flag, so that NumPy takes bytes of the file for pointers."""
    dtype = program(body(Call(np.dtype, 'O8', False, True)), body((3, '|', None, None, None, -1, -1, 0)), b'b')[2:-1]
    array = body(Call(np._core.multiarray._reconstruct, np.ndarray, (0, ), b'b'))
    state = b'(' + body(1) + body((1, )) + dtype + body(False) + body(b'AAAAAAAA') + b't'
    return program(array, state, b'b')


def numpy_load(folder, code):
    np.save(folder / 'objects.npy', np.array([Call(exec, code)], dtype=object), allow_pickle=True)
    return program(body(Call(np.load, str(folder / 'objects.npy'), None, True)))


def torch_load(folder, code):
    torch.save(Call(exec, code), folder / 'inner.pth')
    return program(body(Call(torch.load, str(folder / 'inner.pth'), 'cpu', None)))


def history_buffer(folder, code):
    """Plant exec where __setstate__ calls update; getattr's own module leads to it."""
    builtin = Call(getattr, getattr, '__self__')
    methods = Call(HistoryBuffer)
    planted = program(body(methods), body(dict(setdefault=slice, update=Call(getattr, builtin, 'exec'))), b'b')[2:-1]
    first = b'}' + body('_statistics_methods') + planted + b's'
    return program(body(Call(HistoryBuffer)), first, b'b', body(dict(statistics_methods=code)), b'b')


MALICIOUS = {
    'os.system': lambda folder, code: program(body(Call(os.system, f'touch {folder}/ran'))),
    'os.system renamed': lambda folder, code: program(b'cos\nsystem\n', body((f'touch {folder}/ran', )), b'R'),
    'subprocess': lambda folder, code: program(body(Call(subprocess.call, ['touch', f'{folder}/ran']))),
    'exec': lambda folder, code: program(body(Call(exec, code))),
    'eval': lambda folder, code: program(body(Call(eval, f'exec({code!r})'))),
    'getattr chain': lambda folder, code: program(
        body(Call(Call(getattr, Call(getattr, getattr, '__self__'), 'exec'), code))),
    'HistoryBuffer globals': lambda folder, code: program(
        body(Call(getattr, Call(getattr, HistoryBuffer, '__init__'), '__globals__'))),
    'HistoryBuffer.__setstate__': history_buffer,
    'HistoryBuffer without arrays': lambda folder, code: built(HistoryBuffer, dict(_log_history=code)),
    'Config.fromstring': lambda folder, code: program(
        body(Call(Call(getattr, mmengine.Config, 'fromstring'), code, '.py'))),
    'numpy.load': numpy_load,
    'numpy runstring': lambda folder, code: program(
        b'cnumpy.testing._private.utils\nrunstring\n', body((code, {})), b'R'),
    'numpy object array': lambda folder, code: program(body(np.array([{}], dtype=object))),
    'numpy forged pointers': forged_array,
    'torch.load': torch_load,
    'dall_e, unknown name': lambda folder, code: program(b'cdall_e.encoder\nsystem\n', body((code, )), b'R'),
    'dall_e, called': lambda folder, code: program(b'cdall_e.encoder\nEncoder\n', body((code, )), b'R'),
    'dall_e, dotted': lambda folder, code: program(
        b'cdall_e.utils\nos.system\n', body((f'touch {folder}/ran', )), b'R'),
    'dall_e, no module': lambda folder, code: program(
        b'cdall_e.encoder\nEncoder\n)\x81', body({'__reduce__': code, '_modules': 3}), b'b'),
    'module among weights': lambda folder, code: program(
        b'}', body('state_dict'), b'ctorch.nn.modules.container\nSequential\n)\x81}bs'),
}


@pytest.fixture
def code(tmp_path):
    """Python text that leaves a trace when executed."""
    return f'open({str(tmp_path / "ran")!r}, "w").close()'


@pytest.mark.parametrize('load', [CheckpointLoader.load_checkpoint,
                                  lambda path: load_checkpoint(torch.nn.Linear(1, 1), path)], ids=['loader', 'model'])
@pytest.mark.parametrize('form', ['zip', 'raw'])
@pytest.mark.parametrize('name', MALICIOUS)
@pytest.mark.filterwarnings('ignore:Detected pickle protocol')
def test_malicious_files_are_refused_and_execute_nothing(tmp_path, code, name, form, load):
    path = write(tmp_path / 'evil.pth', MALICIOUS[name](tmp_path, code), form)
    with pytest.raises(ValueError, match='evil.pth must be a complete checkpoint') as raised:
        load(path)
    assert '\n' not in str(raised.value)
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize('name', ['exec', 'getattr chain', 'HistoryBuffer.__setstate__', 'numpy.load'])
def test_the_malicious_files_do_work_elsewhere(tmp_path, code, name):
    """Otherwise the test above would prove nothing: these run under an unrestricted load, one under MMEngine's list."""
    path = write(tmp_path / 'evil.pth', MALICIOUS[name](tmp_path, code), 'zip')
    with torch.serialization.safe_globals(get_torch_safe_globals()), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.load(path, weights_only=name == 'HistoryBuffer.__setstate__')
    assert (tmp_path / 'ran').exists()


def test_the_refused_global_is_named(tmp_path, code):
    path = write(tmp_path / 'evil.pth', MALICIOUS['os.system'](tmp_path, code), 'zip')
    with pytest.raises(ValueError, match=f'^{path} must be .*, got global {os.name}.system$'):
        read_checkpoint(path)


def test_globals_that_others_allow_stay_refused_and_stay_theirs(tmp_path, code):
    path = write(tmp_path / 'evil.pth', MALICIOUS['HistoryBuffer.__setstate__'](tmp_path, code), 'zip')
    with torch.serialization.safe_globals([exec, *get_torch_safe_globals()]):
        before = set(torch.serialization.get_safe_globals())
        with pytest.raises(ValueError):
            read_checkpoint(path)
        assert set(torch.serialization.get_safe_globals()) == before
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize('content', [b'', b'not weights\n', b'# text\n' * 999, b'PK\3\4', bytes(4096), b'\x80\2].'])
@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_other_files_are_refused_in_one_sentence(tmp_path, content, suffix):
    path = tmp_path / f'weights{suffix}'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f'weights{suffix} must be .*got {len(content)} bytes') as raised:
        read_checkpoint(path)
    assert '\n' not in str(raised.value)


@pytest.mark.parametrize('left', [0.1, 0.5, 0.99])
@pytest.mark.parametrize('legacy', [False, True])
def test_truncated_files_are_refused(tmp_path, left, legacy):
    path = tmp_path / 'cut.pth'
    torch.save(dict(state_dict=dict(weight=torch.zeros(5000))), path, _use_new_zipfile_serialization=not legacy)
    path.write_bytes(path.read_bytes()[:int(path.stat().st_size * left)])
    with pytest.raises(ValueError, match='cut.pth must be a complete checkpoint'):
        read_checkpoint(path)


def test_a_list_is_refused(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / 'list.pth')
    with pytest.raises(ValueError, match='a list in the place of a dict'):
        read_checkpoint(tmp_path / 'list.pth')


@pytest.mark.parametrize('read', [read_checkpoint, CheckpointLoader.load_checkpoint])
def test_missing_files_and_folders_are_named(tmp_path, read):
    for path in (tmp_path / 'none.pth', tmp_path):
        with pytest.raises(FileNotFoundError, match=f'expected, got {path}'):
            read(str(path))


def unzipped(name, folder):
    path = folder / f'{name}.pkl'
    path.write_bytes(gzip.decompress((DATA / f'dalle_{name}.pkl.gz').read_bytes()))
    return path


def test_openai_encoder_needs_no_package_dall_e(tmp_path):
    """shared/reference/dalle_encoder.pkl.gz, written by OpenAI's DALL-E release of 2021-03-30."""
    checkpoint = read_checkpoint(unzipped('encoder', tmp_path))
    weights = checkpoint['state_dict']
    assert checkpoint['meta'] == dict(n_hid=64, n_blk_per_group=1, input_channels=3, vocab_size=512)
    assert len(weights) == 42 and all(name.startswith('encoder.blocks.') for name in weights)
    assert weights['encoder.blocks.input.w'].shape == (64, 3, 7, 7)
    assert weights['encoder.blocks.group_1.block_1.res_path.conv_4.w'].shape == (64, 16, 1, 1)
    assert 'encoder.blocks.group_1.block_1.id_path.w' not in weights  # an identity
    assert weights['encoder.blocks.group_4.block_1.id_path.w'].shape == (512, 256, 1, 1)
    assert weights['encoder.blocks.output.conv.b'].shape == (512, )
    assert all(type(weight) is torch.Tensor and not weight.requires_grad for weight in weights.values())


def test_openai_decoder_needs_no_package_dall_e(tmp_path):
    """shared/reference/dalle_decoder.pkl.gz, written by OpenAI's DALL-E release of 2021-03-30."""
    checkpoint = CheckpointLoader.load_checkpoint(str(unzipped('decoder', tmp_path)))
    weights = checkpoint['state_dict']
    assert checkpoint['meta'] == dict(n_init=16, n_hid=64, n_blk_per_group=1, output_channels=3, vocab_size=512)
    assert len(weights) == 44 and all(name.startswith('decoder.blocks.') for name in weights)
    assert weights['decoder.blocks.input.w'].shape == (16, 512, 1, 1)
    assert weights['decoder.blocks.group_1.block_1.res_path.conv_1.w'].shape == (128, 16, 1, 1)
    assert weights['decoder.blocks.group_4.block_1.res_path.conv_4.w'].shape == (64, 16, 3, 3)
    assert weights['decoder.blocks.output.conv.w'].shape == (6, 64, 1, 1)
    assert 'dall_e' not in sys.modules


def test_a_training_checkpoint_of_the_release(tmp_path):
    """BEiT's utils.save_model stores the script's arguments beside the weights."""
    saved = dict(model=dict(weight=torch.ones(1)), epoch=3, args=argparse.Namespace(lr=0.1, size=(14, 14)))
    torch.save(saved, tmp_path / 'checkpoint-3.pth')
    assert read_checkpoint(tmp_path / 'checkpoint-3.pth') == saved


def test_safetensors(tmp_path):
    save_file(dict(weight=torch.arange(3.)), tmp_path / 'model.safetensors')
    for path in (str(tmp_path / 'model.safetensors'), f'file://{tmp_path}/model.safetensors'):
        assert CheckpointLoader.load_checkpoint(path)['weight'].tolist() == [0, 1, 2]


def test_numpy_records_come_back_as_they_were(tmp_path):
    arrays = [np.arange(6, dtype=dtype).reshape(2, 3) for dtype in ('<f8', '>f4', 'i8', 'u1', 'c8', 'f2')]
    arrays += [np.asfortranarray(arrays[0]), np.array([True, False]), np.array(['cat', 'ox'])]
    arrays += [np.zeros((0, 4)), np.array(3.)]
    scalars = [np.float64(0.5), np.int32(-3), np.bool_(True), np.float32(2)]
    torch.save(dict(arrays=arrays, nested=({'scalars': scalars}, )), tmp_path / 'records.pth')
    read = read_checkpoint(tmp_path / 'records.pth')
    for came, was in zip(read['arrays'] + read['nested'][0]['scalars'], arrays + scalars, strict=True):
        assert type(came) is type(was) and came.dtype == was.dtype and came.flags.f_contiguous == was.flags.f_contiguous
        np.testing.assert_array_equal(came, was)


def test_statistics_of_a_file_do_not_become_those_of_every_buffer(tmp_path):
    state = dict(_log_history=np.ones(2), _count_history=np.ones(2), max_length=10)
    state.update(statistics_methods=dict(mean=OrderedDict), mean=OrderedDict)
    write(tmp_path / 'history.pth', program(b'}', body('log'), built(HistoryBuffer, state)[2:-1], b's'), 'zip')
    before = dict(HistoryBuffer._statistics_methods)
    log = read_checkpoint(tmp_path / 'history.pth')['log']
    assert type(log) is HistoryBuffer and log.mean() == 1
    assert HistoryBuffer._statistics_methods == before


def test_config_texts_are_dropped(tmp_path, code):
    """Runner.resume executes meta['config']; inferencers without a config execute both texts named cfg."""
    meta = OrderedDict(epoch=1, iter=2, config=code, cfg=code)
    meta.pop = 0  # a planted attribute must not keep the text in its place
    hub = dict(log_scalars={}, runtime_info=OrderedDict(cfg=code, iter=2), resumed_keys={})
    torch.save(dict(meta=meta, message_hub=hub, state_dict={}), tmp_path / 'text.pth')
    checkpoint = read_checkpoint(tmp_path / 'text.pth')
    assert checkpoint['meta'] == dict(epoch=1, iter=2) and checkpoint['message_hub']['runtime_info'] == dict(iter=2)


class Toy(BaseModel):

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 1)

    def forward(self, inputs, mode='loss'):
        return dict(loss=self.linear(torch.stack(inputs)).square().mean())


class Points(torch.utils.data.Dataset):
    metainfo = dict(classes=('a', 'b'), palette=np.eye(3, dtype=np.uint8), names=ConfigDict(a=dict(b=1)))

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return dict(inputs=torch.tensor([index, 1.]))


def make_runner(folder, name, max_iters, **kwargs):
    return Runner(
        Toy(), work_dir=str(folder), experiment_name=name, default_scope='mmengine', cfg=dict(note=name),
        train_dataloader=dict(dataset=Points(), batch_size=4, sampler=dict(type='DefaultSampler', shuffle=False)),
        train_cfg=dict(by_epoch=False, max_iters=max_iters), optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.1)),
        param_scheduler=dict(type='OneCycleLR', eta_max=0.1, total_steps=5, by_epoch=False), randomness=dict(seed=1),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=2, by_epoch=False),
                           logger=dict(type='LoggerHook', interval=1)),
        custom_hooks=[dict(type='EMAHook')], log_level='ERROR', **kwargs)


def test_a_runner_resumes_from_its_checkpoint_and_not_from_its_text(tmp_path, code):
    straight = make_runner(tmp_path / 'straight', 'straight', 4)
    straight.train()
    path = tmp_path / 'straight' / 'iter_2.pth'
    whole = torch.load(path, weights_only=False)
    whole['meta'].update(config=code, cfg=code)
    torch.save(whole, path)

    resumed = make_runner(tmp_path / 'resumed', 'resumed', 4, load_from=str(path), resume=True)
    resumed.train()
    assert not (tmp_path / 'ran').exists()
    assert resumed.iter == 4
    for name, weight in straight.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name
    losses = resumed.message_hub.get_scalar('train/loss')
    assert type(losses) is HistoryBuffer and len(losses.data[0]) == 4
    np.testing.assert_array_equal(losses.data[0], straight.message_hub.get_scalar('train/loss').data[0])
    assert losses.statistics('mean', 2) == losses.mean(2)

    with zipfile.ZipFile(tmp_path / 'resumed' / 'iter_4.pth') as written:
        assert b'beit_mm' not in written.read('archive/data.pkl')  # what was read leaves no trace of the stand-ins
    again = read_checkpoint(tmp_path / 'resumed' / 'iter_4.pth')
    assert again['meta']['iter'] == 4 and 'cfg' not in again['meta'] and 'ema_state_dict' in again
    assert again['meta']['dataset_meta']['names'] == dict(a=dict(b=1))
    assert again['state_dict']._metadata


@pytest.mark.parametrize(
    'address', ['https://host/model.pth', 'torchvision://resnet18', 'open-mmlab://vgg16_caffe', 'mmcls://vgg11'])
def test_other_schemes_find_the_file_and_read_it_here(tmp_path, code, monkeypatch, address):
    honest, evil = tmp_path / 'honest.pth', tmp_path / 'evil.pth'
    torch.save(dict(state_dict={'backbone.weight': torch.ones(1)}), honest)
    write(evil, MALICIOUS['exec'](tmp_path, code), 'zip')
    for source in (honest, evil):
        monkeypatch.setenv('TORCH_HOME', str(tmp_path / source.stem))
        monkeypatch.setattr(torch.hub, 'download_url_to_file', lambda url, path, *_, **__: shutil.copy(source, path))
        if source is evil:
            with pytest.raises(ValueError, match='got global exec'):
                CheckpointLoader.load_checkpoint(address)
            assert not (tmp_path / 'ran').exists()
        else:
            weights = CheckpointLoader.load_checkpoint(address)['state_dict']
            assert list(weights) == ['weight' if address.startswith('mmcls') else 'backbone.weight']


@pytest.mark.parametrize('address', ['s3://bucket/model.pth', 'petrel:s3://bucket/model.pth', 'petrel://model.pth'])
def test_object_storage_fetches_and_reads_it_here(tmp_path, code, monkeypatch, address):
    path = write(tmp_path / 'evil.pth', MALICIOUS['exec'](tmp_path, code), 'zip')
    monkeypatch.setattr(mmengine.fileio, 'get_local_path', lambda filepath, backend_args: contextlib.nullcontext(path))
    with pytest.raises(ValueError, match='got global exec'):
        CheckpointLoader.load_checkpoint(address)


def test_a_scheme_that_cannot_be_read_safely_is_refused():
    with pytest.raises(ValueError, match='got pavi://model.pth'):
        CheckpointLoader.load_checkpoint('pavi://model.pth')
