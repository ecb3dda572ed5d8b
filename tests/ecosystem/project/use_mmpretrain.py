"""MMPretrain's programming interfaces on our configs and weights: pytest use_mmpretrain.py"""

from pathlib import Path

import mmpretrain
import pytest
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


def test_beit_mm_is_the_wheels():
    assert Path(beit_mm.__file__).parents[1] == Path('../site').resolve()


def test_every_way_that_takes_a_config_gives_the_same_scores():
    model = get_model(CONFIG, pretrained=WEIGHTS)
    torch.save(dict(state_dict=model.state_dict()), 'weights_alone.pth')
    expected = ImageClassificationInferencer(model)(PICTURE)[0]
    assert expected['pred_class'] == f'digit_{expected["pred_scores"].argmax()}'
    assert len(set(expected['pred_scores'].tolist())) == 10
    for inferencer in (
        ImageClassificationInferencer(CONFIG, pretrained=WEIGHTS),
        ImageClassificationInferencer(Config.fromfile(CONFIG), pretrained=WEIGHTS),
        # a file without a record of its classes
        ImageClassificationInferencer(CONFIG, pretrained='weights_alone.pth', classes=model._dataset_meta['classes']),
    ):
        result = inferencer(PICTURE)[0]
        assert result['pred_scores'] == pytest.approx(expected['pred_scores'], abs=1e-6)
        assert result['pred_class'] == expected['pred_class']


def test_a_model_of_the_index_by_its_name():
    assert NAME in mmpretrain.list_models('beit-*')
    mim = f'{beit_mm.__path__[0]}/.mim'
    ModelHub.register_model_index(f'{mim}/model-index.yml', config_prefix=mim)  # by hand, as for version 0.1
    assert NAME in mmpretrain.list_models('beit-*')
    model = get_model(NAME, **SMALL)
    torch.save(dict(state_dict=model.state_dict()), 'by_name.pth')
    result = ImageClassificationInferencer(NAME, pretrained='by_name.pth', **SMALL)(PICTURE)[0]
    assert result['pred_scores'] == pytest.approx(inference_model(model, PICTURE)['pred_scores'], abs=1e-6)
    assert len(result['pred_scores']) == 1000


@pytest.mark.parametrize(
    'name, out_type, changes',
    [
        ('resnet/resnet50_8xb32_in1k.py', 'avg_featmap', dict(neck=None, head=dict(in_channels=32))),
        (
            'vision_transformer/vit-base-p16_64xb64_in1k.py',
            'cls_token',
            dict(head=dict(in_channels=32, hidden_dim=None)),
        ),
    ],
)
def test_our_trunk_trains_in_a_host_s_config_with_its_layer_decay(name, out_type, changes):
    cfg = Config.fromfile(f'{mmpretrain.__path__[0]}/.mim/configs/{name}')
    cfg.merge_from_dict(dict(model=dict(backbone=dict(TRUNK, _delete_=True, out_type=out_type), **changes)))
    model = get_model(cfg).train()
    wrapper = build_optim_wrapper(
        model,
        dict(
            optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.05),
            constructor='mmpretrain.LearningRateDecayOptimWrapperConstructor',
            paramwise_cfg=dict(layer_decay_rate=0.5),
        ),
    )
    rates = {id(parameter): group['lr'] for group in wrapper.param_groups for parameter in group['params']}
    weight = model.backbone.blocks[0].mlp.fc1.weight
    before = weight.clone()
    images = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    samples = [mmpretrain.structures.DataSample().set_gt_label(label) for label in (0, 1)]
    assert 0 < model.train_step(dict(inputs=images, data_samples=samples), wrapper)['loss'] < 20
    assert not torch.equal(before, weight)
    parts = ('cls_token', 'blocks.0.mlp.fc1.weight', 'blocks.3.mlp.fc1.weight')
    assert [rates[id(model.backbone.get_parameter(part))] for part in parts] == [0.5**5, 0.5**4, 0.5]
