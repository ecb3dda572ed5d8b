"""Images of any number of channels, and models in half precision: inputs follow the model."""

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.dataset import Compose, default_collate
from mmengine.registry import DefaultScope, MODELS
from mmengine.structures import PixelData
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample
from support.tiny import PRE_TRAINING, trunk
from timm.models import adapt_input_conv
from torch import nn

from beit_mm.datasets import PhotoMetricDistortion
from beit_mm.errors import UserError
from beit_mm.models import BEiT, DiscreteVAE, MaskedImageModel, TwoViewPreprocessor
from beit_mm.models.data_preprocessors import jitter_colors

TRUNK = dict(img_size=32, embed_dim=32, depth=2, num_heads=2)
VAE = dict(vocab_size=16, n_hid=8, n_init=8, blocks_per_group=1)
PACK = [dict(type='beit_mm.PackTwoViews')]
CHANNELS = pytest.mark.parametrize('channels', [1, 3, 4, 13])


def normalisation(channels: int) -> dict:
    return dict(mean=[100.0 + band for band in range(channels)], std=[50.0 + band for band in range(channels)])


def classifier(channels: int = 3) -> nn.Module:
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(
            dict(
                type='ImageClassifier',
                backbone=dict(type='beit_mm.BEiT', in_channels=channels, **TRUNK),
                head=dict(type='LinearClsHead', num_classes=4, in_channels=32),
                data_preprocessor=dict(type='beit_mm.ClsDataPreprocessor', to_rgb=True, **normalisation(channels)),
            )
        )


def probe(channels: int = 3) -> nn.Module:
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(
            dict(
                type='beit_mm.LinearProbe',
                backbone=dict(type='beit_mm.BEiT', in_channels=channels, out_type='raw', out_indices=[0, 1], **TRUNK),
                head=dict(type='beit_mm.LinearProbeHead', num_classes=4),
                data_preprocessor=dict(type='beit_mm.ClsDataPreprocessor', to_rgb=True, **normalisation(channels)),
            )
        )


def segmentor(channels: int = 3) -> nn.Module:
    norm, levels = dict(type='BN'), dict(num_classes=4, channels=8, norm_cfg=dict(type='BN'))
    with DefaultScope.overwrite_default_scope('mmseg'):
        return MODELS.build(
            dict(
                type='beit_mm.EncoderDecoder',
                backbone=dict(
                    type='beit_mm.BEiT', in_channels=channels, out_type='featmap', out_indices=[0, 0, 1, 1], **TRUNK
                ),
                neck=dict(type='Feature2Pyramid', embed_dim=32, norm_cfg=norm),
                decode_head=dict(type='beit_mm.UperNetHead', in_channels=[32] * 4, in_index=[0, 1, 2, 3], **levels),
                auxiliary_head=dict(type='FCNHead', in_channels=32, in_index=2, **levels),
                data_preprocessor=dict(
                    type='beit_mm.SegDataPreProcessor', size=(32, 32), bgr_to_rgb=True, **normalisation(channels)
                ),
                test_cfg=ConfigDict(mode='slide', crop_size=(32, 32), stride=(16, 16)),
            )
        )


def pre_training(channels: int = 3, target: dict | None = None, normalise: dict | None = None) -> nn.Module:
    target = target or dict(type='beit_mm.VisualTokens', tokenizer=tokenizer(channels))
    preprocessor = dict(type='beit_mm.TwoViewPreprocessor', **(normalise or normalisation(channels)))
    return MaskedImageModel(BEiT(in_channels=channels, **TRUNK, **PRE_TRAINING), target, data_preprocessor=preprocessor)


def tokenizer(channels: int = 3) -> nn.Module:
    return DiscreteVAE(in_channels=channels, **VAE, data_preprocessor=dict(type='beit_mm.SegDataPreProcessor'))


MODELS_OF = [classifier, probe, segmentor, pre_training]


def batch(build, channels: int = 3, count: int = 2) -> dict:
    """Of a loader, for a model; in pre-training with jitter."""
    generator = torch.Generator().manual_seed(0)
    inputs, views = (
        torch.randint(256, (count, channels, side, side), dtype=torch.uint8, generator=generator) for side in (32, 16)
    )
    if build is pre_training:
        mask = torch.tensor([[[True, False], [False, True]]] * count)
        jitter = torch.tensor([[1.2, 0.8, 0.9, 0, 2, 1]] * count)
        return dict(inputs=inputs, views=views, mask=mask, jitter=jitter, mean_color=inputs.float().mean(dim=(2, 3)))
    if build is segmentor:
        samples = [SegDataSample(metainfo=dict(img_shape=(32, 32), ori_shape=(32, 32))) for _ in inputs]
        for sample in samples:
            sample.gt_sem_seg = PixelData(data=torch.randint(4, (1, 32, 32), generator=generator))
        return dict(inputs=list(inputs), data_samples=samples)
    return dict(inputs=inputs, data_samples=[DataSample().set_gt_label(1) for _ in inputs])


@CHANNELS
@pytest.mark.parametrize('build', MODELS_OF)
def test_models_train_and_predict_with_any_number_of_channels(build, channels):
    torch.manual_seed(0)
    model = build(channels)
    data = model.data_preprocessor(batch(build, channels), training=True)
    assert data['inputs'].shape[1] == channels
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    assert loss.isfinite() and len(model.eval().test_step(batch(build, channels))) == 2
    if build is not probe:
        assert model.backbone.patch_embed.proj.weight.grad.abs().amax(dim=(0, 2, 3)).min() > 0  # of every channel


@CHANNELS
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_images_of_any_number_of_bands_and_of_16_bits_reach_the_model(channels, dtype, tmp_path):
    rng, highest = np.random.default_rng(0), np.iinfo(dtype).max
    image = rng.integers(0, highest, (40, 50, channels), dtype, endpoint=True)
    np.save(tmp_path / 'image.npy', image)
    load, jitter = dict(type='beit_mm.LoadImage', color_type='unchanged'), dict(brightness=0.4, saturation=0.4)
    views = dict(type='beit_mm.TwoViewRandomResizedCrop', scale=32, second_scale=16, flip_prob=0.5)
    masks = dict(type='beit_mm.BlockwiseMaskGenerator', grid=(2, 2), num_masked=2, min_block_size=1)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        pipeline = Compose([load, dict(type='beit_mm.DrawColorJitter', **jitter), views, masks, *PACK])
    data = default_collate([pipeline(dict(img_path=str(tmp_path / 'image.npy'))) for _ in range(2)])
    assert data['inputs'].numpy().dtype == dtype
    normalise = dict(mean=[highest / 2] * channels, std=[highest / 4] * channels)
    model = pre_training(channels, normalise=normalise)
    data = model.data_preprocessor(data)
    assert data['inputs'].abs().max() <= 2 and 0.5 < data['views'].max() <= 1
    assert model(**data, mode='loss')['loss'].isfinite()


def test_photometric_distortion_keeps_every_band_and_16_bits():
    distort, rng = PhotoMetricDistortion(), np.random.default_rng(0)
    image = rng.integers(0, 256, (8, 9, 5), np.uint8)
    image[..., 3] = image[..., 0]
    for seed in range(8):
        distorted = []
        for pixels in (image, image.astype(np.uint16) * 257):
            np.random.seed(seed)
            distorted.append(distort(dict(img=pixels))['img'])
            assert distorted[-1].shape == image.shape and distorted[-1].dtype == pixels.dtype
            assert np.array_equal(distorted[-1][..., 3], distorted[-1][..., 0])
        assert np.abs(distorted[1] / 257 - distorted[0]).max() < 3
    with pytest.raises(ValueError, match='8 or 16 bits, got float32'):
        distort(dict(img=image.astype(np.float32)))


@CHANNELS
def test_only_three_channels_are_turned_and_each_has_its_mean(channels):
    for build in MODELS_OF:
        model, data = build(channels), batch(build, channels)
        data.pop('jitter', None)
        images = data['inputs'] if torch.is_tensor(data['inputs']) else torch.stack(data['inputs'])
        images = images.flip(1) if channels == 3 else images
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in normalisation(channels).values())
        torch.testing.assert_close(model.data_preprocessor(data)['inputs'], (images.float() - mean) / std)


@CHANNELS
def test_a_tokenizer_of_any_number_of_channels_trains_and_decodes(channels):
    torch.manual_seed(0)
    model, images = tokenizer(channels), torch.rand(2, channels, 16, 16)
    losses = model(images, mode='loss')
    model.parse_losses(losses)[0].backward()
    tokens = model.encode(images)
    assert tokens.shape == (2, 2, 2) and model.decode(tokens).shape == images.shape
    for part in (model.encoder.blocks.input, model.decoder.blocks.output.conv):
        assert part.w.grad.any()


def test_jitter_of_bands_blends_with_black_and_with_their_mean():
    images = torch.rand(1, 4, 2, 2) * 100 + 50
    mean = images.mean(dim=(2, 3))
    grey = images.mean(dim=1, keepdim=True)
    for order, factors, expected in (
        ([0, 1, 2], (0.5, 1.0, 1.0), 0.5 * images),
        ([1, 0, 2], (1.0, 0.5, 1.0), 0.5 * images + 0.5 * mean.mean()),
        ([2, 1, 0], (1.0, 1.0, 0.5), 0.5 * images + 0.5 * grey),
    ):
        torch.testing.assert_close(jitter_colors(images, torch.tensor([[*factors, *order]]), mean), expected)
    images = images[:, :1]
    same = jitter_colors(images, torch.tensor([[1.0, 1.0, 0.3, 2, 0, 1]]), images.mean(dim=(2, 3)))
    torch.testing.assert_close(same, images)  # a single band has no saturation


@pytest.mark.parametrize('channels', [1, 4, 13])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_a_patch_embedding_for_rgb_is_adapted_as_in_timm_and_the_log_says_how(channels, dtype, monkeypatch):
    lines, name = [], 'patch_embed.proj.weight'
    monkeypatch.setattr('beit_mm.models.weights.print_log', lambda line, logger: lines.append(line))
    weights = trunk(img_size=32).to(dtype).state_dict()
    model = BEiT(img_size=32, embed_dim=32, depth=2, num_heads=4, in_channels=channels)
    model.load_state_dict(weights)
    expected = adapt_input_conv(channels, weights[name].float())
    torch.testing.assert_close(model.state_dict()[name], expected, rtol=1e-3, atol=1e-4)
    how = '1 (summed)' if channels == 1 else f'{channels} (repeated, times 3/{channels})'
    assert f'patch embedding of 3 channels to {how}' in lines[0]
    model.load_state_dict(model.state_dict())
    assert 'adapted: none' in lines[1]
    with pytest.raises(ValueError, match=rf'{name} must be \(32, 3, 16, 16\), got \(32, {channels}, 16, 16\)'):
        trunk(img_size=32).load_state_dict(model.state_dict())


@pytest.mark.parametrize(
    'call, message',
    [
        (lambda: trunk(in_channels=4)(torch.zeros(1, 3, 64, 64)), r'must have 4 channels \(in_channels.*got 3'),
        (lambda: tokenizer().encode(torch.zeros(1, 13, 16, 16)), r'must have 3 channels \(in_channels.*got 13'),
        (lambda: classifier().test_step(batch(classifier, 4)), 'mean and std .* must have 4 numbers, .* got 3'),
        (lambda: segmentor(4).test_step(batch(segmentor, 1)), 'mean and std .* must have 1 numbers, .* got 4'),
        (lambda: pre_training(4).test_step(batch(pre_training, 3)), 'mean and std .* must have 3 numbers, .* got 4'),
        (lambda: TwoViewPreprocessor([1.0], [1.0, 2.0]), r'as many numbers, .* got \[1.0\] and \[1.0, 2.0\]'),
        (lambda: TwoViewPreprocessor([1.0], [0.0]), r'over 0, got \[1.0\] and \[0.0\]'),
        (lambda: pre_training(4, dict(type='beit_mm.NormalisedPixels')), "target.in_channels must be the backbone's 4"),
    ],
)
def test_channels_that_do_not_fit_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@torch.no_grad()
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize('build', MODELS_OF)
def test_a_model_of_another_dtype_predicts_much_the_same(build, dtype):
    torch.manual_seed(0)
    model, data = build().eval(), batch(build)
    data.pop('jitter', None)

    def outputs():
        inputs = model.data_preprocessor(data)['inputs']
        if build is pre_training:
            return model(inputs, mask=data['mask'], mode='outputs')
        return model(inputs) if build is probe else model(inputs)[-1] if build is segmentor else model(inputs)

    expected = outputs()
    mean = model.data_preprocessor.mean
    model.to(dtype)
    actual = outputs()
    eps = max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
    assert (actual.float() - expected).abs().max() < 20 * eps * expected.abs().max()
    assert torch.equal(model.data_preprocessor.mean, mean) and mean.dtype == torch.float32
    assert len(model.test_step(data)) == 2


@pytest.mark.parametrize(
    'takes, got, kind', [(1, 3, 'grayscale'), (3, 1, 'color'), (3, 4, 'color'), (4, 3, 'unchanged')]
)
def test_images_of_other_bands_are_answered_with_the_option_that_loads_the_right_ones(takes, got, kind):
    model = classifier(takes)
    with pytest.raises(UserError, match=f"in_channels of the trunk.*; color_type='{kind}' of beit_mm.LoadImage"):
        model.backbone(torch.zeros(1, got, 32, 32))
    if takes == 1:  # one mean stands for all bands
        return
    with pytest.raises(UserError, match=f"got {takes}; color_type='{kind}' of beit_mm.LoadImage"):
        model.data_preprocessor(dict(inputs=torch.zeros(1, got, 32, 32)))
