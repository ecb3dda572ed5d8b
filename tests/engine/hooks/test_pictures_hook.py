"""Pictures of every kind of training arrive in every backend, and training does not change."""

import logging
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from support.checkpoints import content, differences
from support.resuming import losses, STEPS, train, workers, write_config
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from beit_mm.engine import PicturesHook
from beit_mm.engine.hooks import pictures_hook
from beit_mm.models import DiscreteVAE
from beit_mm.visualization.pictures import Pictures

EXPECTED = dict(
    tokenizer=['codebook', 'reconstruction'],
    pretrain=['codebook', 'reconstruction'],
    finetune=['classification'],
    segment=['segmentation'],
)
CURVES = dict(
    tokenizer=['psnr', 'perplexity', 'used_codes'],
    pretrain=['masked_token_accuracy'],
    finetune=[],
    segment=['decode.acc_seg'],
)


def run(kind: str, folder: Path, interval: int, **options) -> Path:
    folder.mkdir()
    train(
        write_config(
            kind,
            folder / 'run.py',
            **workers(0),
            **{'default_hooks.pictures.interval': interval, 'default_hooks.checkpoint.interval': STEPS, **options},
        ),
        folder,
    )
    return folder


def events_of(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(next(folder.glob('*/vis_data'))), size_guidance=dict(images=0, scalars=0))
    return events.Reload()


@pytest.mark.parametrize('kind', ['pretrain', 'finetune', 'segment', pytest.param('tokenizer', marks=pytest.mark.long)])
def test_pictures_arrive_and_training_does_not_change(kind, in_data, tmp_path):
    plain, watched = run(kind, tmp_path / 'plain', 1000), run(kind, tmp_path / 'watched', 3)
    last = f'iter_{STEPS}.pth'
    assert differences(content(watched / last), content(plain / last)) == []
    assert {
        step: {key: value for key, value in numbers.items() if 'codebook' not in key}
        for step, numbers in losses(watched).items()
    } == losses(plain)

    files = sorted(path.name for path in watched.glob('*/vis_data/vis_image/*'))
    assert files == [f'{name}_{step}.png' for name in EXPECTED[kind] for step in (3, 6)]
    assert not list(plain.glob('*/vis_data/vis_image/*'))
    events = events_of(watched)
    assert sorted(events.Tags()['images']) == EXPECTED[kind]
    for name in EXPECTED[kind]:
        image, _ = events.Images(name)
        assert image.step == 3 and image.width > 200 and image.height > 150
        picture = np.asarray(Image.open(next(watched.glob(f'*/vis_data/vis_image/{name}_3.png'))))
        assert picture.shape == (image.height, image.width, 3) and picture.std() > 10
    scalars = events.Tags()['scalars']
    assert {'train/loss', 'train/lr', *(f'train/{name}' for name in CURVES[kind])} <= {
        tag if tag.startswith('train/') else f'train/{tag}' for tag in scalars
    }
    if 'codebook' in EXPECTED[kind]:
        values = {tag: [event.value for event in events.Scalars(tag)] for tag in scalars if 'codebook/' in tag}
        assert sorted(values) == ['codebook/perplexity', 'codebook/used_codes']
        assert all(1 <= value <= 16 for value in values['codebook/perplexity'])
        assert all(1 / 16 <= value <= 1 for value in values['codebook/used_codes'])


def test_pixels_are_shown_by_their_masks_alone(in_data, tmp_path):
    pixels = {'model.target': dict(_delete_=True, type='beit_mm.NormalisedPixels')}
    watched = run('pretrain', tmp_path / 'watched', 4, **pixels)
    assert sorted(path.name for path in watched.glob('*/vis_data/vis_image/*')) == [
        f'reconstruction_{step}.png' for step in (4, 8)
    ]


class Visualizer:
    dataset_meta = None

    def add_image(self, name, image, step):
        raise OSError('No space left on device')


def runner_of(model: nn.Module) -> SimpleNamespace:
    logger = logging.Logger('pictures')
    logger.records = []
    handler = logging.Handler()
    handler.emit = logger.records.append
    logger.addHandler(handler)
    return SimpleNamespace(model=model, logger=logger, iter=0, visualizer=Visualizer(), hooks=[])


def test_what_cannot_be_drawn_is_logged_and_training_goes_on():
    model = DiscreteVAE(
        vocab_size=16,
        n_hid=8,
        n_init=8,
        blocks_per_group=1,
        data_preprocessor=dict(type='mmpretrain.SelfSupDataPreprocessor', mean=[0.0] * 3, std=[255.0] * 3),
    ).train()
    runner, hook = runner_of(model), PicturesHook(interval=1)
    hook.before_train(runner)
    state = torch.get_rng_state()
    for runner.iter in range(2):
        hook.after_train_iter(runner, runner.iter, dict(inputs=torch.zeros(2, 3, 16, 16).byte(), data_samples=None))
    first, second = runner.logger.records
    assert 'nothing drawn after 1 iterations: No space left on device' in first.getMessage()
    assert first.exc_info[0] is OSError and 'after 2 iterations' in second.getMessage() and not second.exc_info
    assert model.training and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize('part, raises', [('draw_pictures', True), ('add_image', False)])
def test_of_a_model_in_shards_what_cannot_be_drawn_is_raised_but_not_what_cannot_be_written(part, raises, monkeypatch):
    def draw(model, batch, num_images, meta):
        if part == 'draw_pictures':
            raise RuntimeError('out of memory')
        return Pictures(dict(reconstruction=np.zeros((1, 1, 3), np.uint8)), {})

    model = DiscreteVAE(vocab_size=16, n_hid=8, n_init=8, blocks_per_group=1)
    runner, hook = runner_of(model), PicturesHook(interval=1)
    hook.before_train(runner)
    hook.all_compute = True
    monkeypatch.setattr(pictures_hook, 'draw_pictures', draw)
    with pytest.raises(RuntimeError, match='out of memory') if raises else nullcontext():
        hook.after_train_iter(runner, 0, dict())
    assert len(runner.logger.records) == (not raises)


def test_an_unknown_kind_of_model_is_said_once():
    runner, hook = runner_of(nn.Linear(2, 2)), PicturesHook(interval=1)
    hook.before_train(runner)
    hook.after_train_iter(runner, 0, dict())
    assert [record.getMessage() for record in runner.logger.records] == [
        'PicturesHook: there are no pictures for Linear'
    ]


@pytest.mark.parametrize('options', [dict(interval=0), dict(num_images=0)])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match='PicturesHook.* must be at least 1, got 0'):
        PicturesHook(**options)
