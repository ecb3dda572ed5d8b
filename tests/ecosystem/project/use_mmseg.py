"""MMSegmentation's programming interfaces on our configs and weights: pytest use_mmseg.py"""

import mmseg
import pytest
import torch
from mmengine.config import Config
from mmengine.structures import PixelData
from mmseg.apis import inference_model, init_model, MMSegInferencer
from mmseg.structures import SegDataSample
from mmseg.utils import get_classes, get_palette
from safetensors.torch import save_file

import beit_mm
from beit_mm.checkpoint.converting import convert
from beit_mm.config.flatten import flatten

CONFIG, WEIGHTS = 'configs/segment.py', 'work_dirs/segment/iter_2.pth'
PICTURE = 'data/digits/ade20k/images/validation/00000.jpg'
TRUNK = dict(
    type='beit_mm.BEiT', img_size=64, embed_dim=32, depth=4, num_heads=2, out_type='featmap', out_indices=[0, 1, 2, 3]
)
NORM = dict(norm_cfg=dict(type='BN'))  # synchronised only on GPUs


def by_inferencer(config, weights: str) -> torch.Tensor:
    """Logits (classes, H, W)."""
    inferencer = MMSegInferencer(config, weights=weights, device='cpu', show_progress=False)
    return inferencer(PICTURE, return_datasamples=True).seg_logits.data


def by_model(config, weights: str) -> torch.Tensor:
    return inference_model(init_model(config, weights, device='cpu'), PICTURE).seg_logits.data


def assert_close(actual: torch.Tensor) -> None:
    torch.testing.assert_close(actual, by_model(CONFIG, WEIGHTS), rtol=0, atol=1e-5)


def test_every_way_that_takes_a_config_gives_the_same_logits():
    assert init_model(CONFIG, WEIGHTS, device='cpu').dataset_meta['classes'][:2] == ['background', 'digit 0']
    assert by_model(CONFIG, WEIGHTS).std() > 0.01
    for config in (CONFIG, Config.fromfile(CONFIG), flatten('configs/pure_python.py')):
        assert_close(by_inferencer(config, WEIGHTS))


def test_weights_without_a_record_of_their_classes():
    for layout in ('release', 'mmsegmentation'):
        list(convert(WEIGHTS, f'{layout}.pth', layout))
    save_file(init_model(CONFIG, WEIGHTS, device='cpu').state_dict(), 'weights.safetensors')
    for file in ('release.pth', 'mmsegmentation.pth', 'weights.safetensors'):
        assert_close(by_model(CONFIG, file))
        assert_close(by_inferencer(CONFIG, file))


def test_classes_of_weights_without_a_record():
    """init_model guesses ADE20K from 150 classes; an inferencer must be given the classes."""
    cfg = Config.fromfile(f'{beit_mm.__path__[0]}/.mim/configs/beit_segment.py')
    small = dict(
        backbone=dict(embed_dim=32, num_heads=2),
        neck=dict(embed_dim=32),
        decode_head=dict(in_channels=[32] * 4, channels=16),
        auxiliary_head=dict(in_channels=32, channels=16),
    )
    cfg.merge_from_dict(dict(model=small))
    torch.save(dict(model=init_model(cfg, device='cpu').state_dict()), 'ade20k.pth')
    assert init_model(cfg, 'ade20k.pth', device='cpu').dataset_meta['classes'][0] == 'wall'
    inferencer = MMSegInferencer(cfg, weights='ade20k.pth', device='cpu', show_progress=False)
    inferencer.model.dataset_meta = dict(classes=get_classes('ade20k'), palette=get_palette('ade20k'))
    assert inferencer(PICTURE, return_vis=True)['visualization'].shape == (96, 96, 3)
    assert inferencer.visualizer.dataset_meta['classes'][0] == 'wall'


@pytest.mark.parametrize(
    'name, widths, changes',
    [
        ('fcn/fcn_r50-d8_4xb4-160k_ade20k-512x512.py', 32, {}),
        (
            'upernet/upernet_r50_4xb4-160k_ade20k-512x512.py',
            [32] * 4,
            dict(neck=dict(NORM, type='Feature2Pyramid', embed_dim=32, rescales=[4, 2, 1, 0.5])),
        ),
    ],
)
def test_our_trunk_in_a_host_s_config_has_a_gradient_and_predicts(name, widths, changes):
    cfg = Config.fromfile(f'{mmseg.__path__[0]}/.mim/configs/{name}')
    cfg.merge_from_dict(
        dict(
            model=dict(
                backbone=dict(TRUNK, _delete_=True),
                decode_head=dict(NORM, in_channels=widths, channels=16),
                auxiliary_head=dict(NORM, in_channels=32, channels=16),
                # The trunk wants sides that 16 divides; any image is padded to such.
                data_preprocessor=dict(size=(64, 64), test_cfg=dict(size_divisor=16)),
                **changes,
            )
        )
    )
    model = init_model(cfg, device='cpu').train()
    labels = PixelData(data=torch.randint(19, (1, 64, 64)))
    sample = SegDataSample(gt_sem_seg=labels, metainfo=dict(img_shape=(64, 64), ori_shape=(64, 64)))
    data = dict(inputs=[torch.randint(256, (3, 64, 64), dtype=torch.uint8)] * 2, data_samples=[sample] * 2)
    losses = model(**model.data_preprocessor(data, True), mode='loss')
    sum(value for key, value in losses.items() if 'loss' in key).backward()
    assert model.backbone.blocks[0].mlp.fc1.weight.grad.abs().sum() > 0
    assert inference_model(model.eval(), PICTURE).pred_sem_seg.data.shape == (1, 96, 96)
