"""MMPretrain's programming interfaces on our configs and weights: python use_mmpretrain.py REPORT"""

import json
import sys
from pathlib import Path

import mmpretrain
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmpretrain import get_model, ImageClassificationInferencer, inference_model
from mmpretrain.apis import ModelHub

import beit_mm

CONFIG, WEIGHTS = 'configs/classify.py', 'work_dirs/classify/epoch_1.pth'
PICTURE = str(min(Path('data/digits/imagenet/val').glob('*/*.jpg')))
NAME = 'beit-base-p16_22k-to-1k_224'
SMALL = dict(backbone=dict(embed_dim=32, depth=2, num_heads=2), head=dict(in_channels=32))
TRUNK = dict(type='beit_mm.BEiT', img_size=64, embed_dim=32, depth=4, num_heads=2)


def by_config() -> dict:
    """One checkpoint by every way that takes a config, and the same weights without the record of their classes."""
    model = get_model(CONFIG, pretrained=WEIGHTS)
    torch.save(dict(state_dict=model.state_dict()), 'weights_alone.pth')
    actual = dict(
        path=ImageClassificationInferencer(CONFIG, pretrained=WEIGHTS)(PICTURE)[0],
        config=ImageClassificationInferencer(Config.fromfile(CONFIG), pretrained=WEIGHTS)(PICTURE)[0],
        model=ImageClassificationInferencer(model)(PICTURE)[0],
        weights_alone=ImageClassificationInferencer(
            CONFIG, pretrained='weights_alone.pth', classes=model._dataset_meta['classes']
        )(PICTURE)[0],
    )
    return {
        way: dict(scores=result['pred_scores'].tolist(), name=result['pred_class']) for way, result in actual.items()
    }


def by_name() -> dict:
    """A model of the index, small."""
    mim = f'{beit_mm.__path__[0]}/.mim'
    ModelHub.register_model_index(f'{mim}/model-index.yml', config_prefix=mim)
    model = get_model(NAME, **SMALL)
    torch.save(dict(state_dict=model.state_dict()), 'by_name.pth')
    results = dict(
        inferencer=ImageClassificationInferencer(NAME, pretrained='by_name.pth', **SMALL)(PICTURE)[0],
        inference_model=inference_model(model, PICTURE),
    )
    return dict(
        listed=NAME in mmpretrain.list_models('beit-*'),
        scores={way: result['pred_scores'].tolist() for way, result in results.items()},
    )


def in_host_config(name: str, out_type: str, **changes: dict) -> dict:
    """Our trunk in a config of MMPretrain: one training step under its own layer decay."""
    cfg = Config.fromfile(f'{mmpretrain.__path__[0]}/.mim/configs/{name}')
    cfg.merge_from_dict(dict(model=dict(backbone=dict(TRUNK, _delete_=True, out_type=out_type), **changes)))
    model = get_model(cfg)
    model.train()
    wrapper = build_optim_wrapper(
        model,
        dict(
            type='OptimWrapper',
            optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.05),
            constructor='mmpretrain.LearningRateDecayOptimWrapperConstructor',
            paramwise_cfg=dict(layer_decay_rate=0.5),
        ),
    )
    rates = {id(parameter): group['lr'] for group in wrapper.param_groups for parameter in group['params']}
    before = model.backbone.blocks[0].mlp.fc1.weight.clone()
    images = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    samples = [mmpretrain.structures.DataSample().set_gt_label(label) for label in (0, 1)]
    logged = model.train_step(dict(inputs=images, data_samples=samples), wrapper)
    parts = ('cls_token', 'blocks.0.mlp.fc1.weight', 'blocks.3.mlp.fc1.weight')
    return dict(
        loss=logged['loss'].item(),
        moved=not torch.equal(before, model.backbone.blocks[0].mlp.fc1.weight),
        rates=[rates[id(model.backbone.get_parameter(part))] for part in parts],
    )


def main(report: str) -> None:
    actual = dict(
        package=beit_mm.__file__,
        by_config=by_config(),
        by_name=by_name(),
        in_host_config=dict(
            resnet=in_host_config('resnet/resnet50_8xb32_in1k.py', 'avg_featmap', neck=None, head=dict(in_channels=32)),
            vit=in_host_config(
                'vision_transformer/vit-base-p16_64xb64_in1k.py',
                'cls_token',
                head=dict(in_channels=32, hidden_dim=None),
            ),
        ),
    )
    Path(report).write_text(json.dumps(actual))


if __name__ == '__main__':
    main(sys.argv[1])
