"""Errors of init_cfg name the file, in any form that MMEngine takes, and hide no other error."""

import pytest
import torch

from beit_mm.models import BEiT, DiscreteVAE

PARTS = {BEiT: dict(img_size=32, embed_dim=32, depth=2, num_heads=2), DiscreteVAE: dict(n_hid=8, n_init=8)}
OTHER = {BEiT: dict(embed_dim=16), DiscreteVAE: dict(vocab_size=16)}


@pytest.fixture(params=PARTS, ids=lambda part: part.__name__)
def part(request):
    return request.param


@pytest.fixture
def other_weights(part, tmp_path) -> str:
    """Weights of a part of another size."""
    path = tmp_path / 'other.pth'
    torch.save(part(**{**PARTS[part], **OTHER[part]}).state_dict(), path)
    return str(path)


def test_a_checkpoint_that_does_not_fit_or_lacks_the_prefix_is_named(part, other_weights):
    pretrained = dict(type='Pretrained', checkpoint=other_weights)
    for init_cfg in (pretrained, [dict(type='Constant', layer='BatchNorm2d', val=1), pretrained]):
        with pytest.raises(ValueError, match=f'^{other_weights}: the checkpoint does not fit'):
            part(**PARTS[part], init_cfg=init_cfg).init_weights()
    with pytest.raises(ValueError, match=f'^{other_weights}: encoders. is not in the pretrained model'):
        part(**PARTS[part], init_cfg=[dict(pretrained, prefix='encoders.')]).init_weights()


def test_errors_of_other_initialisers_stay_as_they_are(part, other_weights, monkeypatch):
    with pytest.raises(TypeError, match='layer must be a str or a list of str'):
        part(**PARTS[part], init_cfg=[dict(type='Constant', val=1, layer=3)]).init_weights()
    model = part(**PARTS[part], init_cfg=dict(type='Pretrained', checkpoint=other_weights))

    def fail(*args, **kwargs):
        raise AssertionError('other')

    monkeypatch.setattr('mmengine.model.base_module.initialize', fail)
    with pytest.raises(AssertionError, match='^other$'):
        model.init_weights()
