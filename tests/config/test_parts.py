"""Parts of configs."""

import pytest

from beit_mm.config.parts import drop_pretrained, pretrained_of

PRETRAINED, CONSTANT = dict(type='Pretrained', checkpoint='old.pth'), dict(type='Constant', val=0)


@pytest.mark.parametrize(
    'init_cfg, left', [(PRETRAINED, None), ([PRETRAINED], None), ([CONSTANT, PRETRAINED], [CONSTANT])]
)
def test_a_pretrained_file_is_found_and_dropped_alone_and_in_a_list(init_cfg, left):
    model = dict(backbone=dict(init_cfg=init_cfg), head=dict(init_cfg=CONSTANT))
    assert pretrained_of(model['backbone']) and not pretrained_of(model['head']) and not pretrained_of(None)
    drop_pretrained(model, below='head')
    assert pretrained_of(model['backbone'])
    drop_pretrained(model)
    assert model == dict(backbone=dict(init_cfg=left), head=dict(init_cfg=CONSTANT))
