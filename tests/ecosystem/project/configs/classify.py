# The demonstration's classifier, smaller; the base by a path relative to this file.
_base_ = '../../site/beit_mm/.mim/configs/demo/finetune.py'

work_dir = 'work_dirs/classify'
model = dict(backbone=dict(embed_dim=32, depth=2, num_heads=2, init_cfg=None), head=dict(in_channels=32))
loader = dict(batch_size=8, num_workers=0, persistent_workers=False)
train_dataloader = loader
val_dataloader = loader
test_dataloader = loader
train_cfg = dict(max_epochs=1, val_interval=1)
param_scheduler = []
default_hooks = dict(checkpoint=dict(interval=1))
