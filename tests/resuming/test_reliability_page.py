"""docs/reliability.md names tests that exist, and parts and options that recipes have."""

import re
from argparse import Namespace

from mmengine.config import Config
from support import CONFIGS, ROOT
from support.recipes import load

from beit_mm.engine.runners import launch

PAGE = (ROOT / 'docs' / 'reliability.md').read_text()


def test_every_test_it_names_exists():
    paths = re.findall(r'`(tests/[\w/.]+)`', PAGE)
    assert len(set(paths)) > 15 and [path for path in paths if not (ROOT / path).exists()] == []


def test_its_parts_are_those_of_the_recipes():
    named = Config.fromstring(re.search(r'```python\n(.*?)```', PAGE, re.S)[1], '.py')
    recipe = load('beit_pretrain.py')
    assert named.train_cfg == dict(type=recipe.train_cfg.type, max_epochs=recipe.max_epochs)
    assert {key: recipe.optim_wrapper[key] for key in named.optim_wrapper if key != 'optimizer'} == {
        'type': named.optim_wrapper.type
    }
    assert dict(recipe.optim_wrapper.optimizer).items() >= dict(named.optim_wrapper.optimizer).items()
    runtime = Config.fromfile(CONFIGS / '_base_' / 'runtime.py').default_hooks
    assert {key: runtime[key] for key in named.default_hooks} == named.default_hooks


def test_its_options_are_taken():
    (command,) = re.findall(r'^    (tools/.*)$', PAGE, re.M)
    assert command == 'tools/dist_train.sh configs/beit_pretrain.py 8 --resume'
    options = {
        'train_cfg.allow_world_size_change': True,
        'train_cfg.max_bad_share': 0.01,
        'randomness.deterministic': True,
        'default_hooks.stop.signals': ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGUSR1'],
        'default_hooks.runtime_info.max_skipped': 5,
        'default_hooks.watchdog.limit': 60,
    }
    assert all(key in PAGE for key in options)
    cfg = launch.prepare_config(
        Namespace(config=str(CONFIGS / 'beit_pretrain.py'), cfg_options=options, work_dir=None, launcher='none')
    )
    assert (
        cfg.default_hooks.stop.signals == ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGUSR1']
        and cfg.train_cfg.max_bad_share == 0.01
    )
