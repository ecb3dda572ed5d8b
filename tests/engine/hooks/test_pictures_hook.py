"""Pictures of a training of each stage arrive in every backend, and training does not change."""

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
from beit_mm.engine.hooks import monitoring_hooks
from beit_mm.models import DiscreteVAE
from beit_mm.visualization.pictures import Pictures

# Names of the pictures, and of curves.
EXPECTED = dict(
    tokenizer=(['codebook', 'reconstruction'], {'psnr', 'perplexity', 'used_codes'}),
    tokenizer_v2=(['codebook', 'distances'], {'loss_teacher', 'perplexity', 'used_codes'}),
    pretrain=(['codebook', 'reconstruction'], {'masked_token_accuracy'}),
    finetune=(['classification'], set()),
    segment=(['segmentation'], {'decode.acc_seg'}),
)


def run(kind: str, folder: Path, interval: int, **options) -> Path:
    folder.mkdir()
    intervals = {'default_hooks.pictures.interval': interval, 'default_hooks.checkpoint.interval': STEPS}
    train(write_config(kind, folder / 'run.py', **workers(0), **intervals, **options), folder)
    return folder


def pictures(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob('*/vis_data/vis_image/*'))


@pytest.mark.parametrize(
    'kind', ['tokenizer_v2', 'pretrain', 'finetune', 'segment', pytest.param('tokenizer', marks=pytest.mark.long)]
)
def test_pictures_arrive_and_training_does_not_change(kind, in_data, tmp_path):
    plain, watched = run(kind, tmp_path / 'plain', 1000), run(kind, tmp_path / 'watched', 3)
    last = f'iter_{STEPS}.pth'
    assert differences(content(watched / last), content(plain / last)) == []
    logged = losses(watched)
    for numbers in logged.values():
        for key in [key for key in numbers if 'codebook' in key]:
            del numbers[key]
    assert logged == losses(plain)

    names, curves = EXPECTED[kind]
    assert pictures(watched) == [f'{name}_{step}.png' for name in names for step in (3, 6)]
    assert not pictures(plain)
    path = str(next(watched.glob('*/vis_data')))
    events = EventAccumulator(path, size_guidance=dict(images=0, scalars=0)).Reload()
    assert sorted(events.Tags()['images']) == names
    for name in names:
        image, _ = events.Images(name)
        assert image.step == 3 and image.width > 200 and image.height > 150
        picture = np.asarray(Image.open(next(watched.glob(f'*/vis_data/vis_image/{name}_3.png'))))
        assert picture.shape == (image.height, image.width, 3) and picture.std() > 10
    scalars = events.Tags()['scalars']
    assert {'loss', 'lr'} | curves <= {tag.removeprefix('train/') for tag in scalars}
    if 'codebook' in names:
        values = {tag: [event.value for event in events.Scalars(tag)] for tag in scalars if 'codebook/' in tag}
        assert sorted(values) == ['codebook/perplexity', 'codebook/used_codes']
        assert all(1 <= value <= 16 for value in values['codebook/perplexity'])
        assert all(100 / 16 <= value <= 100 for value in values['codebook/used_codes'])


def test_pixels_are_shown_by_their_masks_alone(in_data, tmp_path):
    pixels = {'model.target': dict(_delete_=True, type='beit_mm.NormalisedPixels')}
    watched = run('pretrain', tmp_path / 'watched', 4, **pixels)
    assert pictures(watched) == ['reconstruction_4.png', 'reconstruction_8.png']


def runner_of(model: nn.Module) -> SimpleNamespace:
    def add_image(name, image, step):
        raise OSError('No space left on device')

    logger = logging.Logger('pictures')
    logger.records, handler = [], logging.Handler()
    handler.emit = logger.records.append
    logger.addHandler(handler)
    visualizer = SimpleNamespace(dataset_meta=None, add_image=add_image)
    return SimpleNamespace(model=model, logger=logger, iter=0, visualizer=visualizer, hooks=[])


def tokenizer() -> DiscreteVAE:
    preprocessor = dict(type='mmpretrain.SelfSupDataPreprocessor', mean=[0.0] * 3, std=[255.0] * 3)
    return DiscreteVAE(vocab_size=16, n_hid=8, n_init=8, blocks_per_group=1, data_preprocessor=preprocessor)


def test_an_error_is_logged_and_training_goes_on():
    model = tokenizer().train()
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
def test_an_error_while_drawing_a_sharded_model_is_raised_but_not_one_while_writing(part, raises, monkeypatch):
    def draw(model, batch, num_images, meta):
        if part == 'draw_pictures':
            raise RuntimeError('out of memory')
        return Pictures(dict(reconstruction=np.zeros((1, 1, 3), np.uint8)), {})

    runner, hook = runner_of(tokenizer()), PicturesHook(interval=1)
    hook.before_train(runner)
    hook.all_compute = True
    monkeypatch.setattr(monitoring_hooks, 'draw_pictures', draw)
    with pytest.raises(RuntimeError, match='out of memory') if raises else nullcontext():
        hook.after_train_iter(runner, 0, dict())
    assert len(runner.logger.records) == (not raises)


def test_a_model_without_pictures_is_named_once_and_options_out_of_range_are_refused():
    runner, hook = runner_of(nn.Linear(2, 2)), PicturesHook(interval=1)
    hook.before_train(runner)
    hook.after_train_iter(runner, 0, dict())
    (record,) = runner.logger.records
    assert record.getMessage() == 'PicturesHook: there are no pictures for Linear'
    for option in ('interval', 'num_images'):
        with pytest.raises(ValueError, match=f'PicturesHook.{option} must be positive, got 0'):
            PicturesHook(**{option: 0})
