# BEiT v2 large 512 under UperNet on ADE20K, from the weights fine-tuned on ImageNet-21k (arXiv 2208.06366).
#
#   tools/dist_train.sh configs/segment/beitv2_large_512_ft21k_to_ade20k.py 8    8 GPUs x 2 images
#   python tools/test.py configs/segment/beitv2_large_512_ft21k_to_ade20k.py FILE
#
# Published for beitv2_large_patch16_224_pt1k_ft21ktoade20k.pth: 57.5 % mIoU (BEiT v2 release).
_base_ = 'beitv2_large_512_pt1k_to_ade20k.py'

model = dict(backbone=dict(init_cfg=dict(checkpoint='checkpoints/beitv2_large_patch16_224_pt1k_ft21k.pth')))

optim_wrapper = dict(optimizer=dict(lr=3e-5))
