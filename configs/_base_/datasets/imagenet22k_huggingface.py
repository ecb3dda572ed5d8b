# ImageNet-22k in two views from Hugging Face `datasets`: a folder written by save_to_disk, or a name on the hub. It
# replaces the class folders; views and masks are the same.
_base_ = 'imagenet_pretrain.py'

train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='beit_mm.HuggingFaceImages',
        path='data/imagenet22k_huggingface',
        split='train',
        with_label=False,
        pipeline=_base_.train_pipeline))
