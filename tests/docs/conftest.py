from pathlib import Path

import pytest
from support.clone import enter, run_command, write_clone


@pytest.fixture(scope='session')
def trained_clone(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """A clone with small data and the demonstration's checkpoints, after two steps each; CIFAR-100's checksums."""
    folder = tmp_path_factory.mktemp('clone')
    checksums = write_clone(folder)
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, checksums, patch)
        for name in ('tokenizer', 'pretrain', 'finetune', 'segment'):
            run_command(f'python tools/train.py configs/demo/{name}.py')
    return folder, checksums


@pytest.fixture
def clone(trained_clone, monkeypatch) -> Path:
    """The clone, as the working directory; what tests write stays there for the next."""
    enter(*trained_clone, monkeypatch)
    return trained_clone[0]
