# BEiT tiny, pre-trained on your own images: all files in data/own/images and its subfolders, without labels.
#
#   tools/dist_train.sh configs/pretrain/beit_tiny_own_data.py 1    1 GPU x 256 images
#
# No published score: size, batch, rate and epochs are our choice. configs/own_data/ has all stages.
# OpenAI's tokenizer: --cfg-options model.target.tokenizer.init_cfg.checkpoint=PATH/encoder.pkl
_base_ = 'beit_base_1k_300e.py'

model = dict(backbone=dict(embed_dim=192, num_heads=3))
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='beit_mm.ClassFolders',
        data_root='data/own/images',
        with_label=False,
        pipeline=_base_.train_pipeline))

# Few images need many updates, so the batch is small. The rate is about the paper's times the square root of the
# batches' ratio.
optim_wrapper = dict(optimizer=dict(lr=5e-4))
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], eta_min_ratio=1e-5 / 5e-4)]
auto_scale_lr = dict(base_batch_size=256)
