"""Weights files of every format: what reading them gives."""

import argparse
import gzip
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path, PurePath, PureWindowsPath
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.runner import CheckpointLoader, Runner
from safetensors.torch import save_file
from support.payloads import built, leave_trace, program, write

from beit_mm.checkpoint import read_checkpoint, torch_files

DATA = Path(__file__).parents[1] / 'reference' / 'data'


@pytest.mark.parametrize(
    'half, meta, count, shapes',
    [
        (
            'encoder',
            dict(n_hid=64, n_blk_per_group=1, input_channels=3, vocab_size=512),
            42,
            {
                'input.w': (64, 3, 7, 7),
                'group_1.block_1.res_path.conv_4.w': (64, 16, 1, 1),
                'group_1.block_1.id_path.w': None,  # an identity
                'group_4.block_1.id_path.w': (512, 256, 1, 1),
                'output.conv.b': (512,),
            },
        ),
        (
            'decoder',
            dict(n_init=16, n_hid=64, n_blk_per_group=1, output_channels=3, vocab_size=512),
            44,
            {
                'input.w': (16, 512, 1, 1),
                'group_1.block_1.res_path.conv_1.w': (128, 16, 1, 1),
                'group_4.block_1.res_path.conv_4.w': (64, 16, 3, 3),
                'output.conv.w': (6, 64, 1, 1),
            },
        ),
    ],
)
def test_openai_s_tokenizer_needs_no_package_dall_e(half, meta, count, shapes, tmp_path):
    """Files written by OpenAI's DALL-E release of 2021-03-30."""
    path = tmp_path / f'{half}.pkl'
    path.write_bytes(gzip.decompress((DATA / f'dalle_{half}.pkl.gz').read_bytes()))
    checkpoint = CheckpointLoader.load_checkpoint(str(path))
    weights = checkpoint['state_dict']
    assert checkpoint['meta'] == meta
    assert len(weights) == count and all(name.startswith(f'{half}.blocks.') for name in weights)
    for name, shape in shapes.items():
        tensor = weights.get(f'{half}.blocks.{name}')
        assert shape is None and tensor is None or tensor.shape == shape, name
    assert all(type(weight) is torch.Tensor and not weight.requires_grad for weight in weights.values())
    assert 'dall_e' not in sys.modules


@pytest.mark.parametrize('is_zip', [True, False])
def test_training_checkpoints_are_read_whatever_torch_may_refuse(is_zip, tmp_path, monkeypatch):
    """BEiT's utils.save_model stores the script's arguments with the weights."""
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')
    saved = dict(model=dict(weight=torch.ones(1)), epoch=3, args=argparse.Namespace(lr=0.1, size=(14, 14)))
    torch.save(saved, tmp_path / 'checkpoint-3.pth', _use_new_zipfile_serialization=is_zip)
    assert read_checkpoint(tmp_path / 'checkpoint-3.pth') == saved


def test_files_are_read_whichever_end_zipfile_finds(tmp_path, monkeypatch):
    """Older releases of Python find the last record of a zip file, newer ones the zip64 record before it."""
    path = tmp_path / 'weights.pth'
    torch.save(dict(weight=torch.arange(9.0)), path)
    content = path.read_bytes()
    ends = [content.rindex(mark) for mark in (b'PK\5\6', b'PK\6\6')]
    assert zipfile._EndRecData(path.open('rb'))[9] in ends
    for end in ends:
        names = dict(vars(zipfile), _EndRecData=lambda file, end=end: [*zipfile._EndRecData(file)[:9], end])
        monkeypatch.setattr(torch_files, 'zipfile', SimpleNamespace(**names))
        assert torch.equal(read_checkpoint(path)['weight'], torch.arange(9.0))


@pytest.mark.parametrize('name', ['model.safetensors', 'model.pth'])
def test_safetensors_under_any_suffix(name, tmp_path):
    save_file(dict(weight=torch.arange(3.0)), tmp_path / name)
    for path in (str(tmp_path / name), f'file://{tmp_path}/{name}'):
        assert CheckpointLoader.load_checkpoint(path)['weight'].tolist() == [0, 1, 2]


def test_numpy_records_come_back_as_they_were(tmp_path):
    arrays = [np.arange(6, dtype=dtype).reshape(2, 3) for dtype in ('<f8', '>f4', 'i8', 'u1', 'c8', 'f2')]
    arrays += [np.asfortranarray(arrays[0]), np.array([True, False]), np.array(['cat', 'ox'])]
    arrays += [np.zeros((0, 4)), np.array(3.0)]
    scalars = [np.float64(0.5), np.int32(-3), np.bool_(True), np.float32(2)]
    torch.save(dict(arrays=arrays, nested=({'scalars': scalars},)), tmp_path / 'records.pth')
    read = read_checkpoint(tmp_path / 'records.pth')
    for came, was in zip(read['arrays'] + read['nested'][0]['scalars'], arrays + scalars, strict=True):
        assert type(came) is type(was) and came.dtype == was.dtype and came.flags.f_contiguous == was.flags.f_contiguous
        np.testing.assert_array_equal(came, was)
        assert came.flags.writeable or not isinstance(came, np.ndarray)


def test_statistics_of_a_file_do_not_become_those_of_every_buffer(tmp_path):
    state = dict(_log_history=np.ones(2), _count_history=np.ones(2), max_length=10)
    state.update(statistics_methods=dict(mean=OrderedDict), mean=OrderedDict)
    path = write(tmp_path, program(b'}X\3\0\0\0log', built(HistoryBuffer, state)[2:-1], b's'), 'zip')
    before = dict(HistoryBuffer()._statistics_methods)  # filled by the first buffer
    log = read_checkpoint(path)['log']
    assert type(log) is HistoryBuffer and log.mean() == 1
    assert HistoryBuffer._statistics_methods == before


@pytest.mark.parametrize(
    'count, is_zip, protocol',
    [(1000, True, 4), *(pytest.param(14_000, is_zip, 2, marks=pytest.mark.long) for is_zip in (True, False))],
)
def test_large_honest_files_stay_within_the_bounds(count, is_zip, protocol, tmp_path):
    """Bounds grow with the file, so small tensors are the hardest."""
    parameters = [torch.nn.Parameter(torch.full((2,), float(index))) for index in range(300)]
    groups = [dict(params=[value], name=f'blocks.{index}', lr=0.1) for index, value in enumerate(parameters)]
    optimizer = torch.optim.AdamW(groups)
    sum(value.sum() for value in parameters).backward()
    optimizer.step()
    log = HistoryBuffer(np.random.default_rng(0).random(200_000), np.ones(200_000))
    numbers = torch.arange(float(count))
    content = dict(
        state_dict={f'views.{index}': number for index, number in enumerate(numbers)},
        parameters=dict(enumerate(parameters)),
        optimizer=optimizer.state_dict(),
        message_hub=dict(log_scalars=dict(loss=log)),
    )
    options = dict(_use_new_zipfile_serialization=is_zip, pickle_protocol=protocol)
    torch.save(content, tmp_path / 'run.pth', **options)
    came = read_checkpoint(tmp_path / 'run.pth')
    assert len(came['state_dict']) == count and came['state_dict'][f'views.{count - 1}'] == count - 1
    assert came['optimizer']['state'][299]['exp_avg'].shape == (2,) and came['parameters'][299][0] == parameters[299][0]
    np.testing.assert_array_equal(came['message_hub']['log_scalars']['loss'].data[0], log.data[0])


def test_config_texts_are_dropped(tmp_path):
    """Runner.resume executes meta['config']; inferencers without a config execute both texts named cfg."""
    code = leave_trace(tmp_path)
    meta = OrderedDict(epoch=1, iter=2, config=code, cfg=code)
    meta.pop = 0  # a planted attribute must not keep the text
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
        return dict(inputs=torch.tensor([index, 1.0]))


def train(folder, **kwargs):
    checkpoint = dict(type='CheckpointHook', interval=2, by_epoch=False)
    runner = Runner(
        Toy(),
        work_dir=str(folder),
        experiment_name=folder.name,
        default_scope='mmengine',
        cfg=dict(note=folder.name),
        train_dataloader=dict(dataset=Points(), batch_size=4, sampler=dict(type='DefaultSampler', shuffle=False)),
        train_cfg=dict(by_epoch=False, max_iters=4),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.1)),
        param_scheduler=dict(type='OneCycleLR', eta_max=0.1, total_steps=5, by_epoch=False),
        randomness=dict(seed=1),
        default_hooks=dict(checkpoint=checkpoint, logger=dict(type='LoggerHook', interval=1)),
        custom_hooks=[dict(type='EMAHook')],
        log_level='ERROR',
        **kwargs,
    )
    runner.train()
    return runner


def test_a_runner_resumes_from_its_checkpoint_and_not_from_its_text(tmp_path):
    straight = train(tmp_path / 'straight')
    path = tmp_path / 'straight' / 'iter_2.pth'
    whole = torch.load(path, weights_only=False)
    whole['meta'].update(config=leave_trace(tmp_path), cfg=leave_trace(tmp_path))
    torch.save(whole, path)

    resumed = train(tmp_path / 'resumed', load_from=str(path), resume=True)
    assert not (tmp_path / 'ran').exists() and resumed.iter == 4
    for name, weight in straight.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name
    losses = resumed.message_hub.get_scalar('train/loss')
    assert type(losses) is HistoryBuffer and len(losses.data[0]) == 4
    np.testing.assert_array_equal(losses.data[0], straight.message_hub.get_scalar('train/loss').data[0])
    assert losses.statistics('mean', 2) == losses.mean(2)

    with zipfile.ZipFile(tmp_path / 'resumed' / 'iter_4.pth') as written:
        assert b'beit_mm' not in written.read('archive/data.pkl')  # what was read leaves no trace of the reader
    again = read_checkpoint(tmp_path / 'resumed' / 'iter_4.pth')
    assert again['meta']['iter'] == 4 and 'cfg' not in again['meta'] and 'ema_state_dict' in again
    assert again['meta']['dataset_meta']['names'] == dict(a=dict(b=1))
    assert again['state_dict']._metadata


@pytest.mark.parametrize(
    'content, message',
    [
        (dict(meta=3), 'meta must be a dict, got 3'),
        *(
            (dict(meta=dict(dataset_meta=value), state_dict={}), message)
            for value, message in [
                ('ab', 'meta.dataset_meta must be a dict, got ab'),
                (dict(classes=7), 'meta.dataset_meta.classes must be a list of names, got 7'),
                (dict(classes='cat'), 'meta.dataset_meta.classes must be a list of names, got cat'),
                (dict(classes=['cat', 1]), r'meta.dataset_meta.classes\[1\] must be a name, got 1'),
                (dict(palette=torch.ones(3)), 'meta.dataset_meta.palette must be a list of colours, got tensor'),
                (dict(palette=[1]), r'meta.dataset_meta.palette\[0\] must be three numbers, got 1'),
            ]
        ),
        (dict(meta=dict(CLASSES={'a': 1}), state_dict={}), 'meta.CLASSES must be a list of names'),
        (dict(meta=dict(epoch='x'), state_dict={}), 'meta.epoch must be a number, got x'),
        (dict(meta=dict(iter=[1]), state_dict={}), r'meta.iter must be a number, got \[1\]'),
        (dict(state_dict=[1]), 'state_dict must be a dict, got a list'),
        ({3: torch.ones(1)}, 'weights must have texts as names, got 3'),
        (dict(state_dict={None: torch.ones(1)}), 'weights must have texts as names, got None'),
        (dict(state_dict={b'a': torch.ones(1)}), "weights must have texts as names, got b'a'"),
        ({'\ud800': torch.ones(1)}, 'must be a complete checkpoint'),
    ],
)
def test_meta_data_and_names_of_other_types_are_refused_in_one_sentence(content, message, tmp_path):
    torch.save(content, tmp_path / 'other.pth')
    with pytest.raises(ValueError, match=f'^{tmp_path}/other.pth:? {message}') as raised:
        CheckpointLoader.load_checkpoint(str(tmp_path / 'other.pth'))
    assert '\n' not in str(raised.value)


def test_paths_and_settings_in_checkpoints_of_lightning_are_read(tmp_path):
    content = dict(state_dict=dict(weight=torch.ones(1)), hyper_parameters=dict(root=Path('/data/images')), paths=[])
    torch.save(dict(content, callbacks=dict(best=PureWindowsPath('C:/a.ckpt'))), tmp_path / 'last.ckpt')
    checkpoint = read_checkpoint(tmp_path / 'last.ckpt')
    assert (
        checkpoint['hyper_parameters']['root'] == PurePath('/data/images') and checkpoint['state_dict']['weight'] == 1
    )
    assert type(checkpoint['hyper_parameters']['root']) is type(PurePath())  # no path of this file system
