"""docs/extending.md: every part of it trains for two steps by its own config and command."""

from pathlib import Path

import pytest
import torch
from support.clone import run_command
from support.pages import blocks, commands, PYTHON

PAGE = blocks('docs/extending.md')
COMMANDS = commands('docs/extending.md')


@pytest.fixture
def files(clone) -> Path:
    """The files of the page, where it puts them."""
    written = [block.file for block in PAGE if block.kind == PYTHON]
    assert len(written) == len(set(written)) == 9 and all(name.startswith('mine/') for name in written)
    (clone / 'mine').mkdir(exist_ok=True)
    for block in PAGE:
        if block.kind == PYTHON:
            (clone / block.file).write_text(block.text)
    return clone


def test_every_config_of_the_page_has_its_command(files):
    assert sorted(files.glob('mine/*_*.py')) == sorted(files / command.split()[-1] for command in COMMANDS)


@pytest.mark.parametrize('command', COMMANDS)
def test_two_steps(command, files):
    before = command.replace('finetune', 'pretrain')  # what its weights come from
    if before != command and not (files / 'work_dirs' / 'mine' / Path(before.split()[-1]).stem).exists():
        run_command(before)
    run_command(command)
    checkpoint = torch.load(
        max((files / 'work_dirs' / 'mine' / Path(command.split()[-1]).stem).glob('*.pth')), weights_only=False
    )
    assert {int(state['step']) for state in checkpoint['optimizer']['state'].values()} == {2}
