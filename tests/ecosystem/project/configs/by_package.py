# The demonstration's segmentor, smaller; the base by the name of the package. `beit_mm` must be imported before this
# file is read.
_base_ = 'beit_mm::demo/segment.py'

work_dir = 'work_dirs/by_package'
model = dict(
    backbone=dict(embed_dim=32, depth=2, num_heads=2, out_indices=[0, 0, 1, 1], init_cfg=None),
    neck=dict(embed_dim=32),
    decode_head=dict(in_channels=[32] * 4, channels=16),
    auxiliary_head=dict(in_channels=32, channels=16),
)
loader = dict(batch_size=2, num_workers=0, persistent_workers=False)
train_dataloader = loader
val_dataloader = loader
test_dataloader = loader
train_cfg = dict(max_iters=2, val_interval=2)
param_scheduler = []
default_hooks = dict(checkpoint=dict(interval=2))
