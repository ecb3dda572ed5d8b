"""No file gets to execute anything, in whatever form and by whatever way it comes in."""

import copyreg
import hashlib
import os
import pickle
import random
import resource
import threading
import time
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor

import mmpretrain
import mmseg.apis
import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.runner import CheckpointLoader, load_checkpoint, Runner
from mmengine.runner.checkpoint import get_torch_safe_globals
from support import CONFIGS
from support.hostile_weights import EXECUTING, FORMS, state_of_process
from support.payloads import ANYWHERE, body, leave_trace, OTHER_OPCODES, program, write
from support.tiny import TOKENIZER
from support.tiny import TRUNK as SMALL

from beit_mm.apis import load_model
from beit_mm.checkpoint import read_checkpoint
from beit_mm.checkpoint.converting import convert
from beit_mm.errors import UserError

TRUNK = dict(type='beit_mm.BEiT', img_size=32, embed_dim=16, depth=1, num_heads=2)
CLASSIFIER = dict(
    type='ImageClassifier', backbone=TRUNK, head=dict(type='LinearClsHead', num_classes=2, in_channels=16)
)
FCN = dict(type='FCNHead', in_channels=16, in_index=0, channels=8, num_convs=1, concat_input=False, num_classes=2)
SEGMENTOR = dict(
    type='EncoderDecoder',
    backbone=dict(**TRUNK, out_type='featmap', out_indices=[0]),
    decode_head=FCN,
    test_cfg=dict(mode='whole'),
)


def classifier():
    return Config(dict(default_scope='mmpretrain', model=CLASSIFIER))


def segmentor():
    return Config(dict(default_scope='mmseg', model=SEGMENTOR))


class Toy(BaseModel):
    def __init__(self, **init_cfg):
        super().__init__(init_cfg=dict(type='Pretrained', **init_cfg) if init_cfg else None)
        self.linear = torch.nn.Linear(2, 1)

    def forward(self, inputs, mode='loss'):
        return dict(loss=self.linear(inputs).sum())


def start(path, resume):
    """A Runner that starts from a checkpoint, up to its first step."""
    runner = Runner(
        Toy(),
        work_dir=os.path.dirname(path),
        experiment_name=path,
        default_scope='mmengine',
        train_dataloader=torch.utils.data.DataLoader([0.0]),
        train_cfg=dict(by_epoch=False, max_iters=9),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        load_from=path,
        resume=resume,
        log_level='ERROR',
    )
    runner.load_or_resume()


WAYS = {
    'read_checkpoint': read_checkpoint,
    'CheckpointLoader': CheckpointLoader.load_checkpoint,
    'file://': lambda path: CheckpointLoader.load_checkpoint(f'file://{path}'),
    'load_checkpoint': lambda path: load_checkpoint(Toy(), path),
    'Pretrained': lambda path: Toy(checkpoint=path).init_weights(),
    'Pretrained with a prefix': lambda path: Toy(checkpoint=path, prefix='linear.').init_weights(),
    'Runner.load_from': lambda path: start(path, resume=False),
    'Runner.resume': lambda path: start(path, resume=True),
    'mmpretrain.get_model': lambda path: mmpretrain.get_model(classifier(), pretrained=path),
    'mmpretrain inferencer': lambda path: mmpretrain.ImageClassificationInferencer(classifier(), pretrained=path),
    'mmpretrain.inference_model': lambda path: mmpretrain.inference_model(
        mmpretrain.get_model(classifier(), pretrained=path), 'none.png'
    ),
    'mmseg.init_model': lambda path: mmseg.apis.init_model(segmentor(), path, device='cpu'),
    'mmseg inferencer': lambda path: mmseg.apis.MMSegInferencer(segmentor(), weights=path, device='cpu'),
    'mmseg inferencer without a config': lambda path: mmseg.apis.MMSegInferencer(None, weights=path, device='cpu'),
    'convert': lambda path: list(convert(path, f'{path}.out.pth', 'timm')),
    'tokenizer': lambda path: load_model(CONFIGS / 'beit_pretrain.py', tokenizer=path, options={**SMALL, **TOKENIZER}),
}


def evil_files(folder, form, names):
    """Each pickle in a folder of its own."""
    for index, name in enumerate(names):
        own = folder / str(index)
        own.mkdir()
        yield name, write(own, EXECUTING[name](own), form)


def assert_nothing_ran(folder):
    assert not list(folder.rglob('ran'))


@pytest.mark.parametrize('form', ['zip', 'raw', 'pdparams', 'folder'])
@pytest.mark.parametrize('way', WAYS)
@pytest.mark.filterwarnings('ignore')
def test_malicious_files_are_refused_and_execute_nothing(tmp_path, way, form):
    """All of them by the reader, a seeded choice by each way to it."""
    names = sorted(EXECUTING)
    if way != 'read_checkpoint':
        names = random.Random(f'{way} {form}').sample(names, 7)
    before = state_of_process()
    for name, path in evil_files(tmp_path, form, names):
        with pytest.raises(ValueError, match='evil.* must be a complete checkpoint|bin must be a complete') as raised:
            WAYS[way](str(path))
        assert '\n' not in str(raised.value) and len(str(raised.value)) < 600, name
    assert way != 'read_checkpoint' or state_of_process() == before
    assert_nothing_ran(tmp_path)


@pytest.mark.parametrize('part', range(8))
def test_hostile_forms_are_read_or_refused_in_one_sentence_and_change_nothing(part, tmp_path):
    """In five seconds and less than a gigabyte each."""
    assert len(FORMS) >= 200
    before = state_of_process()
    for name in sorted(FORMS)[part::8]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        path, started = FORMS[name](folder), time.process_time()
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            assert isinstance(CheckpointLoader.load_checkpoint(str(path), logger='silent'), dict)
        except (UserError, FileNotFoundError) as error:
            assert '\n' not in str(error) and '\x1b' not in str(error) and len(str(error)) < 600, name
            str(error).encode()
        assert time.process_time() - started < 5, name
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 2**20, name
        assert state_of_process() == before, name
    assert_nothing_ran(tmp_path)


@pytest.mark.parametrize('mark', ['', '#sha256='])
@pytest.mark.parametrize('form', ['zip', 'pdparams'])
@pytest.mark.filterwarnings('ignore')
def test_malicious_downloads_execute_nothing_with_and_without_a_checksum(tmp_path, server, form, mark):
    names = ['exec', 'HistoryBuffer.__setstate__', 'numpy.load', 'torch.load', 'os.kill, called']
    for _, path in evil_files(tmp_path, form, names):
        path = path.rename(path.with_name(f'{path.parent.name}{path.name}'))
        address = f'{server.url}/{path.relative_to(tmp_path)}'
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        with pytest.raises(ValueError, match='must be a complete checkpoint'):
            CheckpointLoader.load_checkpoint(f'{address}{mark}{digest}' if mark else address)
        with pytest.raises(ValueError, match=f'must have the SHA-256 {"0" * 64}, got {digest}'):
            CheckpointLoader.load_checkpoint(f'{address}{mark or "#sha256="}{"0" * 64}')
        with pytest.raises(ValueError, match='must be a complete checkpoint'):
            read_checkpoint(f'{path}#sha256={digest}')
    assert_nothing_ran(tmp_path)


@pytest.mark.parametrize(
    'name',
    'exec|getattr chain|HistoryBuffer.__setstate__|numpy.load|stack global|instance|object|new object'.split('|'),
)
def test_the_malicious_files_do_work_elsewhere(tmp_path, name):
    """Otherwise the tests above would prove nothing: these run when unpickled, one even under MMEngine's list."""
    content = {**ANYWHERE, **OTHER_OPCODES}[name](tmp_path, leave_trace(tmp_path))
    if name == 'HistoryBuffer.__setstate__':
        with torch.serialization.safe_globals(get_torch_safe_globals()), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            torch.load(write(tmp_path, content, 'zip'), weights_only=True)
    else:
        pickle.loads(content)
    assert (tmp_path / 'ran').exists()


@pytest.mark.parametrize('form', ['zip', 'pdparams'])
def test_the_refused_global_is_named_even_if_others_allow_it(tmp_path, form):
    path = write(tmp_path, ANYWHERE['os.system'](tmp_path, ''), form)
    with torch.serialization.safe_globals([os.system, exec, *get_torch_safe_globals()]):
        with pytest.raises(ValueError, match=f'^{path} must be .*, got global {os.name}.system$'):
            read_checkpoint(path)
        path = write(tmp_path, ANYWHERE['HistoryBuffer.__setstate__'](tmp_path, leave_trace(tmp_path)), 'zip')
        with pytest.raises(ValueError):
            read_checkpoint(path)
    assert_nothing_ran(tmp_path)


def test_two_threads_that_read_at_once_leave_torch_s_list_alone(tmp_path):
    """The first finishes while the second is in the middle of its file."""
    torch.save(dict(weight=torch.ones(1)), tmp_path / 'weights.pth')
    second_reads, first_is_done, lists = threading.Event(), threading.Event(), []

    def in_first(storage, location):
        lists.append(set(torch.serialization.get_safe_globals()))
        assert second_reads.wait(20)
        return storage

    def in_second(storage, location):
        second_reads.set()
        assert first_is_done.wait(20)
        return storage

    with torch.serialization.safe_globals([Toy]), ThreadPoolExecutor(2) as pool:
        before = set(torch.serialization.get_safe_globals())
        first = pool.submit(read_checkpoint, tmp_path / 'weights.pth', in_first)
        second = pool.submit(read_checkpoint, tmp_path / 'weights.pth', in_second)
        assert first.result()['weight'] == 1
        first_is_done.set()
        assert second.result()['weight'] == 1
        assert lists == [before] and set(torch.serialization.get_safe_globals()) == before


def test_a_torchscript_archive_is_refused(tmp_path):
    """torch.load would run what its `__setstate__` says."""
    path = write(tmp_path, program(b'c__torch__\nEvil\n)\x81'), 'zip')
    with zipfile.ZipFile(path, 'a') as archive:
        archive.writestr('archive/constants.pkl', program(b')'))
    with pytest.raises(ValueError, match='evil.pth must be a complete checkpoint .*, got global __torch__.Evil'):
        read_checkpoint(path)


@pytest.mark.parametrize('opcode', [b'\x82\xf0', b'\x83\xf0\0', b'\x84\xf0\0\0\0'])
@pytest.mark.parametrize('form', ['raw', 'pdparams'])
def test_the_extension_registry_is_no_way_around(tmp_path, opcode, form):
    """A code stands for a global that some package registered; once read, pickle does not ask for it again."""
    path = write(tmp_path, program(opcode, body((f'touch {tmp_path}/ran',)), b'R'), form)
    copyreg.add_extension(os.name, 'system', 0xF0)
    try:
        pickle.loads(path.read_bytes())
        (tmp_path / 'ran').unlink()
        with pytest.raises(ValueError, match='must be a complete checkpoint'):
            read_checkpoint(path)
    finally:
        copyreg.remove_extension(os.name, 'system', 0xF0)
    assert_nothing_ran(tmp_path)


@pytest.mark.parametrize('form', ['pth', 'pdparams'])
@pytest.mark.parametrize('way', ['Runner.resume', 'mmseg inferencer without a config'])
def test_config_texts_in_a_file_are_not_executed(tmp_path, form, way):
    code = leave_trace(tmp_path)
    hub = dict(log_scalars={}, runtime_info=dict(cfg=code), resumed_keys={})
    content = dict(meta=dict(config=code, cfg=code, epoch=1, iter=1), message_hub=hub, state_dict={})
    path = tmp_path / f'text.{form}'
    torch.save(content, path) if form == 'pth' else path.write_bytes(pickle.dumps(content, protocol=4))
    try:
        WAYS[way](str(path))
    except ValueError as error:
        assert 'Cannot find the config in the checkpoint' in str(error)
    assert read_checkpoint(path)['meta'] == dict(epoch=1, iter=1)
    assert_nothing_ran(tmp_path)
