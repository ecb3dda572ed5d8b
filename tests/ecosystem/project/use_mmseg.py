"""MMSegmentation's programming interfaces on our configs and weights: python use_mmseg.py REPORT"""

import json
import sys
from pathlib import Path

import mmseg
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


def by_config() -> dict:
    """One checkpoint by every way that takes a config: how far the logits are apart."""
    expected = by_model(CONFIG, WEIGHTS)
    actual = dict(
        path=by_inferencer(CONFIG, WEIGHTS),
        config=by_inferencer(Config.fromfile(CONFIG), WEIGHTS),
        pure_python=by_inferencer(flatten('configs/pure_python.py'), WEIGHTS),
    )
    return dict(
        classes=init_model(CONFIG, WEIGHTS, device='cpu').dataset_meta['classes'],
        spread=expected.std().item(),
        distances=distances(expected, actual),
    )


def weights_alone() -> dict:
    """The same weights in files without a record of their classes."""
    for layout in ('release', 'mmsegmentation'):
        list(convert(WEIGHTS, f'{layout}.pth', layout))
    save_file(init_model(CONFIG, WEIGHTS, device='cpu').state_dict(), 'weights.safetensors')
    files = ('release.pth', 'mmsegmentation.pth', 'weights.safetensors')
    actual = {f'{file}, {way.__name__}': way(CONFIG, file) for file in files for way in (by_model, by_inferencer)}
    return distances(by_model(CONFIG, WEIGHTS), actual)


def distances(expected: torch.Tensor, actual: dict) -> dict:
    return {way: (logits - expected).abs().max().item() for way, logits in actual.items()}


def classes_of_ade20k() -> dict:
    """The first class of weights for 150 classes in init_model, and in an inferencer that knows the classes."""
    cfg = Config.fromfile(f'{beit_mm.__path__[0]}/.mim/configs/beit_segment.py')
    small = dict(
        backbone=dict(embed_dim=32, num_heads=2),
        neck=dict(embed_dim=32),
        decode_head=dict(in_channels=[32] * 4, channels=16),
        auxiliary_head=dict(in_channels=32, channels=16),
    )
    cfg.merge_from_dict(dict(model=small))
    torch.save(dict(model=init_model(cfg, device='cpu').state_dict()), 'ade20k.pth')
    inferencer = MMSegInferencer(cfg, weights='ade20k.pth', device='cpu', show_progress=False)
    inferencer.model.dataset_meta = dict(classes=get_classes('ade20k'), palette=get_palette('ade20k'))
    drawn = inferencer(PICTURE, return_vis=True)['visualization']
    return dict(
        init_model=init_model(cfg, 'ade20k.pth', device='cpu').dataset_meta['classes'][0],
        inferencer=inferencer.visualizer.dataset_meta['classes'][0],
        drawn=drawn.shape,
    )


def in_host_config(name: str, widths, **changes: dict) -> dict:
    """Our trunk in a config of MMSegmentation: the gradient of its loss, and a prediction."""
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
    model = init_model(cfg, device='cpu')
    image, sample = torch.randint(256, (3, 64, 64), dtype=torch.uint8), SegDataSample()
    sample.set_data(dict(gt_sem_seg=PixelData(data=torch.randint(19, (1, 64, 64)))))
    sample.set_metainfo(dict(img_shape=(64, 64), ori_shape=(64, 64)))
    model.train()
    losses = model(**model.data_preprocessor(dict(inputs=[image] * 2, data_samples=[sample] * 2), True), mode='loss')
    sum(value for key, value in losses.items() if 'loss' in key).backward()
    model.eval()
    gradient = model.backbone.blocks[0].mlp.fc1.weight.grad
    return dict(gradient=gradient.abs().sum().item(), shape=inference_model(model, PICTURE).pred_sem_seg.data.shape)


def main(report: str) -> None:
    actual = dict(
        package=beit_mm.__file__,
        by_config=by_config(),
        weights_alone=weights_alone(),
        classes_of_ade20k=classes_of_ade20k(),
        in_host_config=dict(
            fcn=in_host_config('fcn/fcn_r50-d8_4xb4-160k_ade20k-512x512.py', 32),
            upernet=in_host_config(
                'upernet/upernet_r50_4xb4-160k_ade20k-512x512.py',
                [32] * 4,
                neck=dict(NORM, type='Feature2Pyramid', embed_dim=32, rescales=[4, 2, 1, 0.5]),
            ),
        ),
    )
    Path(report).write_text(json.dumps(actual))


if __name__ == '__main__':
    main(sys.argv[1])
