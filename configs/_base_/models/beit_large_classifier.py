# BEiT large: the same with 24 blocks of width 1024, and a LayerScale that starts lower (BEiT release).
_base_ = 'beit_base_classifier.py'

model = dict(
    backbone=dict(embed_dim=1024, depth=24, num_heads=16, layer_scale_init_value=1e-5), head=dict(in_channels=1024))
