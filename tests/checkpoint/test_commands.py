"""The tools given bad weights: one sentence, a non-zero exit, nothing executed."""

from argparse import Namespace

import pytest
import torch
from mmengine.config import Config
from PIL import Image
from support.payloads import ANYWHERE, leave_trace, OTHER_OPCODES, write
from support.tools import tool

from beit_mm.engine.runners import launch
from beit_mm.engine.runners.ending import run

TRUNK = dict(type='beit_mm.BEiT', img_size=32, embed_dim=16, depth=1, num_heads=2)
HEAD = dict(type='LinearClsHead', num_classes=2, in_channels=16)
CLASSIFIER = dict(type='ImageClassifier', backbone=TRUNK, head=HEAD)


def config(folder):
    for name in 'ab':
        (folder / 'data' / name).mkdir(parents=True)
        Image.new('RGB', (32, 32)).save(folder / 'data' / name / 'a.png')
    dataset = dict(type='CustomDataset', data_root=str(folder / 'data'))
    dataset['pipeline'] = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
    loader = dict(batch_size=1, sampler=dict(type='DefaultSampler', shuffle=False), dataset=dataset)
    cfg = dict(
        custom_imports=dict(imports=['beit_mm']),
        default_scope='mmpretrain',
        experiment_name=folder.name,
        model=dict(CLASSIFIER, data_preprocessor=dict(mean=[0.0] * 3, std=[255.0] * 3)),
        train_dataloader=loader,
        test_dataloader=loader,
        train_cfg=dict(by_epoch=False, max_iters=1),
        test_cfg=dict(),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        test_evaluator=dict(type='Accuracy', topk=1),
    )
    Config(cfg).dump(folder / 'config.py')
    return f'{folder}/config.py'


def evil(folder, name, form):
    return str(write(folder, {**ANYWHERE, **OTHER_OPCODES}[name](folder, leave_trace(folder)), form))


def assert_one_sentence(output, message):
    sentences = [line for line in output.splitlines() if line.startswith('error: ')]
    assert len(sentences) == 1 and message in sentences[0], output[-3000:]
    assert 'Traceback' not in output


@pytest.mark.parametrize(
    'words, name, form',
    [('train --resume ', 'HistoryBuffer.__setstate__', 'zip'), ('test file://', 'stack global', 'pdparams')],
    ids=['resume', 'Paddle'],
)
def test_malicious_weights_end_a_tool_in_one_sentence(tmp_path, words, name, form):
    path = evil(tmp_path, name, form)
    name_of_tool, *options = f'{words}{path}'.split()
    output = tool(name_of_tool, config(tmp_path), *options, '--work-dir', tmp_path / 'work', ok=False)
    assert_one_sentence(output, f'{path} must be a complete checkpoint of weights or of a run, ')
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize(
    'checkpoint, message',
    [
        (lambda folder: evil(folder, 'exec', 'folder'), 'pytorch_model.bin must be a complete checkpoint'),
        ('{bad}', 'bad.pth: the checkpoint '),
        (f'{{bad}}#sha256={"0" * 64}', f'bad.pth must have the SHA-256 {"0" * 64}, got '),
        ('{bad}#sha256=0', 'at the end of a checkpoint must give 64 hexadecimal digits'),
        (str, 'CHECKPOINT names a folder without weights'),
        ('', 'CHECKPOINT must name a checkpoint, got an empty text'),
        ('{bad}x', 'CHECKPOINT names a checkpoint that does not exist'),
    ],
)
def test_bad_weights_end_a_test_in_one_sentence(tmp_path, capsys, checkpoint, message):
    """As tools/test.py does, without its process."""
    torch.save(dict(state_dict={}), tmp_path / 'bad.pth')
    path = checkpoint.format(bad=tmp_path / 'bad.pth') if isinstance(checkpoint, str) else checkpoint(tmp_path)
    args = dict(config=config(tmp_path), checkpoint=path, work_dir=f'{tmp_path}/work', launcher='none')
    args.update(out=None, show_dir=None, tta=False, cfg_options=None)
    with pytest.raises(SystemExit) as raised:
        run(launch.test, Namespace(**args))
    assert raised.value.code == 1
    assert_one_sentence(capsys.readouterr().err, message)
    assert not (tmp_path / 'ran').exists()
