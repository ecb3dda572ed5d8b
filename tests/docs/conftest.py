from pathlib import Path

import pytest
from clone import prepare, run_command


@pytest.fixture(scope='session')
def clone(tmp_path_factory) -> Path:
    """The working directory: a clone with small data and the demonstration's checkpoints, after two steps each."""
    folder = tmp_path_factory.mktemp('clone')
    with pytest.MonkeyPatch.context() as patch:
        prepare(folder, patch)
        for name in ('tokenizer', 'pretrain', 'finetune', 'segment'):
            run_command(f'python tools/train.py configs/demo/{name}.py')
        yield folder
