# The tiny BEiT v2 fine-tuned on the digits' ten classes, exactly as BEiT by ../finetune.py. Part of `make demo-v2`.
#
#   python tools/train.py configs/demo/v2/finetune.py    1 process x 32 images
#
# No published score.
_base_ = '../finetune.py'

work_dir = 'work_dirs/demo_v2/finetune'
model = dict(backbone=dict(init_cfg=dict(checkpoint='work_dirs/demo_v2/pretrain/epoch_20.pth')))
