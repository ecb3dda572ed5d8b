# ImageNet-22k in two views from Hugging Face `datasets`: a folder that save_to_disk wrote, or a name on the hub. In
# place of folders: the same views and masks, another source.
_base_ = 'imagenet_pretrain.py'

train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='beit_mm.HuggingFaceImages',
        path='data/imagenet22k_huggingface',
        split='train',
        with_label=False,
        pipeline=_base_.train_dataloader.dataset.pipeline))
