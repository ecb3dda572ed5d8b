# BEiT base 640 under UperNet on ADE20K, from the weights fine-tuned on ImageNet-22k (BEiT release).
#
#   tools/dist_train.sh configs/segment/beit_base_640_ft22k_to_ade20k.py 8    8 GPUs x 2 images
#   python tools/test.py configs/segment/beit_base_640_ft22k_to_ade20k.py FILE [--tta]
#
# Published for beit_base_patch16_640_pt22k_ft22ktoade20k.pth: 53.6 % mIoU, 54.2 % multi-scale with flip
# (BEiT release).
_base_ = ['../_base_/seg_runtime.py', '../_base_/models/beit_base_upernet.py',
          '../_base_/datasets/ade20k_640.py', '../_base_/schedules/ade20k_160k.py']

crop_size = (640, 640)
model = dict(
    data_preprocessor=dict(size=crop_size, test_cfg=dict(size=crop_size)),
    backbone=dict(
        img_size=640,
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/beit_base_patch16_224_pt22k_ft22k.pth',
                      prefix='backbone.')),
    test_cfg=dict(crop_size=crop_size, stride=(426, 426)))

optim_wrapper = dict(optimizer=dict(lr=3e-5), paramwise_cfg=dict(layer_decay_rate=0.9))
