# The demonstration's segmentor, smaller, in MMEngine's pure-Python style. Its base is the copy that
#
#   python MIM/tools/misc/print_config.py MIM/configs/demo/segment.py --out configs/flat_segment.py
#
# writes, MIM being `.mim` in the installed beit_mm. Types can be classes.
from mmengine.config import read_base

with read_base():
    from .flat_segment import *

from mmcv.transforms import LoadImageFromFile
from mmseg.datasets.transforms import LoadAnnotations, PackSegInputs
from mmseg.models import EncoderDecoder

from beit_mm.models import BEiT

work_dir = 'work_dirs/pure_python'
model.update(type=EncoderDecoder)
model.backbone.update(type=BEiT, embed_dim=32, depth=2, num_heads=2, out_indices=[0, 0, 1, 1], init_cfg=None)
model.neck.update(embed_dim=32)
model.decode_head.update(in_channels=[32] * 4, channels=16)
model.auxiliary_head.update(in_channels=32, channels=16)
test_pipeline = [dict(type=LoadImageFromFile), dict(type=LoadAnnotations), dict(type=PackSegInputs)]
loader = dict(batch_size=2, num_workers=0, persistent_workers=False)
train_dataloader.update(loader)
val_dataloader.update(loader)
val_dataloader.dataset.update(pipeline=test_pipeline)
test_dataloader = val_dataloader
train_cfg.update(max_iters=2, val_interval=2)
param_scheduler = []
default_hooks.checkpoint.update(interval=2)
