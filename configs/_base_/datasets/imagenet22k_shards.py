# ImageNet-22k in two views from tar shards in webdataset's layout (KEY.jpg and KEY.cls). It replaces the class
# folders; views and masks are the same.
_base_ = 'imagenet_pretrain.py'

train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='beit_mm.WebDatasetShards',
        data_root='data/imagenet22k',
        shards='imagenet22k-train-{000000..001299}.tar',
        with_label=False,
        pipeline=_base_.train_pipeline))
