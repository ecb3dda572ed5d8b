from pathlib import Path

import pytest
from support.clone import enter, run_command, write_clone


@pytest.fixture(scope='session')
def clone_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('clone')
    write_clone(folder)
    return folder


@pytest.fixture
def clone(clone_folder, monkeypatch) -> Path:
    """A clone with small data as the working directory; what tests write stays there for the next."""
    enter(clone_folder, monkeypatch)
    return clone_folder


@pytest.fixture
def demonstration(clone) -> Path:
    """The clone with the checkpoints of the demonstration, after two steps each."""
    for name in ('tokenizer', 'pretrain', 'finetune', 'segment'):
        if not (clone / 'work_dirs' / 'demo' / name).exists():
            run_command(f'python tools/train.py configs/demo/{name}.py')
    return clone
