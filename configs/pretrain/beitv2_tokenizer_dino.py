# The tokenizer of BEiT v2, distilled from DINO ViT-B/16, with a decoder of one block (arXiv 2208.06366).
#
#   tools/dist_train.sh configs/pretrain/beitv2_tokenizer_dino.py 8    8 GPUs x 64 images
#
# No published score. Published use of the codebook: 100 % (BEiT v2 release). For pre-training with it: --cfg-options
# model.target.tokenizer.decoder_depth=1 model.target.tokenizer.teacher_dim=768
_base_ = 'beitv2_tokenizer_clip.py'

model = dict(
    decoder_depth=1,
    teacher=dict(name='vit_base_patch16_224.dino', use_head=False),
    teacher_dim=768)
