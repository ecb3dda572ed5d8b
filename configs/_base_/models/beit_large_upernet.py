# BEiT large under UperNet: blocks 8, 12, 16 and 24, all levels 1024 wide (BEiT release).
_base_ = 'beit_base_upernet.py'

model = dict(
    backbone=dict(
        embed_dim=1024,
        depth=24,
        num_heads=16,
        drop_path_rate=0.2,
        layer_scale_init_value=1e-5,
        out_indices=[7, 11, 15, 23]),
    neck=dict(embed_dim=1024),
    decode_head=dict(in_channels=[1024, 1024, 1024, 1024], channels=1024),
    auxiliary_head=dict(in_channels=1024))
