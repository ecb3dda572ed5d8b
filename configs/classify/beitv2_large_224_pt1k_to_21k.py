# BEiT v2 large 224, intermediate fine-tuning on the 21,841 classes of ImageNet-21k (arXiv 2208.06366).
#
#   tools/dist_train.sh configs/classify/beitv2_large_224_pt1k_to_21k.py 8
#       on each of 2 nodes: 16 GPUs x 128 images, 2 steps accumulated
#
# No published score: its weights, beitv2_large_patch16_224_pt1k_ft21k.pth,
# are the start of beitv2_large_224_ft21k_to_1k.py.
_base_ = 'beitv2_base_224_pt1k_to_21k.py'

model = dict(
    backbone=dict(
        embed_dim=1024,
        depth=24,
        num_heads=16,
        layer_scale_init_value=1e-5,
        drop_path_rate=0.2,
        init_cfg=dict(checkpoint='checkpoints/beitv2_large_patch16_224_pt1k.pth')),
    head=dict(in_channels=1024))

train_dataloader = dict(batch_size=128)
optim_wrapper = dict(accumulative_counts=2)
# GPUs x images: --auto-scale-lr does not count accumulated steps.
auto_scale_lr = dict(base_batch_size=2048)
