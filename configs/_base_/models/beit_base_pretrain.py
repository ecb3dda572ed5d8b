# BEiT base predicting the visual tokens of a dVAE (arXiv 2106.08254, section 2).
model = dict(
    type='beit_mm.MaskedImageModel',
    backbone=dict(
        type='beit_mm.BEiT',
        img_size=224,
        patch_size=16,
        embed_dim=768,
        depth=12,
        num_heads=12,
        drop_path_rate=0.1,
        layer_scale_init_value=0.1,
        use_mask_token=True,
        use_rel_pos_bias=False,
        use_shared_rel_pos_bias=True,
        out_type='raw'),
    target=dict(
        type='beit_mm.VisualTokens',
        tokenizer=dict(type='beit_mm.DiscreteVAE', vocab_size=8192, n_hid=256, n_init=128, blocks_per_group=2)),
    # As many as the mask generator masks, so nothing waits for the device to count them. None if the number varies.
    # To predict all patches: recovered=dict(_delete_=True, type='beit_mm.AllPatches').
    recovered=dict(type='beit_mm.MaskedPatches', num_masked=75),
    data_preprocessor=dict(
        type='beit_mm.TwoViewPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True))
