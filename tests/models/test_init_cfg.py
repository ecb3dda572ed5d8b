"""Errors of init_cfg name the file, in any form that MMEngine takes, and hide no other error."""

import operator

import pytest
import torch

from beit_mm.models import BEiT, DiscreteVAE, KMeansTokenizer

PARTS = {
    BEiT: dict(img_size=32, embed_dim=32, depth=2, num_heads=2),
    DiscreteVAE: dict(n_hid=8, n_init=8),
    KMeansTokenizer: dict(),
}
OTHER = {BEiT: dict(embed_dim=16), DiscreteVAE: dict(vocab_size=16), KMeansTokenizer: dict(vocab_size=16)}


@pytest.mark.parametrize('part', PARTS)
def test_errors_of_weights_name_the_file_and_others_stay_as_they_are(part, tmp_path, monkeypatch):
    path = str(tmp_path / 'other.pth')
    torch.save(part(**{**PARTS[part], **OTHER[part]}).state_dict(), path)
    pretrained = dict(type='Pretrained', checkpoint=path)

    def load(init_cfg):
        part(**PARTS[part], init_cfg=init_cfg).init_weights()

    for init_cfg in (pretrained, [dict(type='Constant', layer='BatchNorm2d', val=1), pretrained]):
        with pytest.raises(ValueError, match=f'^{path}: the checkpoint does not fit'):
            load(init_cfg)
    found = '(backbone.|decoder., encoder.|no prefix)'
    with pytest.raises(
        ValueError, match=f'^{path}: no name begins with the prefix encoders. of init_cfg, it has {found}$'
    ):
        load([dict(pretrained, prefix='encoders.')])
    with pytest.raises(TypeError, match='layer must be a str or a list of str'):
        load([dict(type='Constant', val=1, layer=3)])
    monkeypatch.setattr('mmengine.model.base_module.initialize', lambda *args: operator.truediv(1, 0))
    with pytest.raises(ZeroDivisionError):
        load(pretrained)
