"""Weights files of every kind: what they give."""

import argparse
import gzip
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.runner import CheckpointLoader, Runner
from safetensors.torch import save_file
from support.payloads import body, built, program, write

from beit_mm.checkpoint import read_checkpoint

DATA = Path(__file__).parents[1] / 'reference' / 'data'


@pytest.fixture
def code(tmp_path):
    """Python text that leaves a trace when executed."""
    return f'open({str(tmp_path / "ran")!r}, "w").close()'


@pytest.mark.parametrize('read', [read_checkpoint, CheckpointLoader.load_checkpoint])
def test_missing_files_are_named(tmp_path, read):
    with pytest.raises(FileNotFoundError, match=f'expected, got {tmp_path}/none.pth, which'):
        read(f'{tmp_path}/none.pth')


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
    assert weights['encoder.blocks.output.conv.b'].shape == (512,)
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
    save_file(dict(weight=torch.arange(3.0)), tmp_path / 'model.safetensors')
    for path in (str(tmp_path / 'model.safetensors'), f'file://{tmp_path}/model.safetensors'):
        assert CheckpointLoader.load_checkpoint(path)['weight'].tolist() == [0, 1, 2]


def test_safetensors_under_another_suffix(tmp_path):
    save_file(dict(weight=torch.arange(3.0)), tmp_path / 'model.pth')
    assert read_checkpoint(tmp_path / 'model.pth')['weight'].tolist() == [0, 1, 2]


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


def test_statistics_of_a_file_do_not_become_those_of_every_buffer(tmp_path):
    state = dict(_log_history=np.ones(2), _count_history=np.ones(2), max_length=10)
    state.update(statistics_methods=dict(mean=OrderedDict), mean=OrderedDict)
    path = write(tmp_path, program(b'}', body('log'), built(HistoryBuffer, state)[2:-1], b's'), 'zip')
    before = dict(HistoryBuffer()._statistics_methods)  # filled by the first of them
    log = read_checkpoint(path)['log']
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
        return dict(inputs=torch.tensor([index, 1.0]))


def make_runner(folder, name, max_iters, **kwargs):
    return Runner(
        Toy(),
        work_dir=str(folder),
        experiment_name=name,
        default_scope='mmengine',
        cfg=dict(note=name),
        train_dataloader=dict(dataset=Points(), batch_size=4, sampler=dict(type='DefaultSampler', shuffle=False)),
        train_cfg=dict(by_epoch=False, max_iters=max_iters),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.1)),
        param_scheduler=dict(type='OneCycleLR', eta_max=0.1, total_steps=5, by_epoch=False),
        randomness=dict(seed=1),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', interval=2, by_epoch=False),
            logger=dict(type='LoggerHook', interval=1),
        ),
        custom_hooks=[dict(type='EMAHook')],
        log_level='ERROR',
        **kwargs,
    )


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
