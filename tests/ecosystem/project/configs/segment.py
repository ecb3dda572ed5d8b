# The demonstration's segmentor, smaller; the base by an absolute path.
_base_ = '{{ fileDirname }}/../../site/beit_mm/.mim/configs/demo/segment.py'

work_dir = 'work_dirs/segment'
model = dict(
    backbone=dict(
        embed_dim=32,
        depth=2,
        num_heads=2,
        out_indices=[0, 0, 1, 1],
        init_cfg=dict(checkpoint='work_dirs/classify/epoch_1.pth'),
    ),
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
