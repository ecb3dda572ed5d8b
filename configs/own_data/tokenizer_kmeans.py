# A tokenizer for fewer images of your own, or in minutes: 1,024 clusters of whitened patches. See docs/own_data.md.
#
#   python tools/train.py configs/own_data/tokenizer_kmeans.py     1 process x 64 images
#
# No published score; all values are our choice, for 2,000 to 100,000 images, which are those of tokenizer.py.
_base_ = 'tokenizer.py'

work_dir = 'work_dirs/own_data/tokenizer_kmeans'
max_iters = 500
model = dict(
    _delete_=True,
    type='beit_mm.KMeansTokenizer',
    vocab_size=_base_.vocab_size,
    whitening_iters=max_iters // 10,
    data_preprocessor=_base_.model.data_preprocessor)

# The rate is the share by which a centre moves to the mean of its patches in a batch, however large the batch is.
optim_wrapper = dict(optimizer=dict(_delete_=True, type='SGD', lr=0.5, weight_decay=0.0))
param_scheduler = [dict(type='CosineAnnealingLR', eta_min=0.02, by_epoch=False, begin=0, end=max_iters)]
auto_scale_lr = dict(_delete_=True)
custom_hooks = []
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=max(1, max_iters // 5)),
    pictures=dict(interval=max(1, max_iters // 5)))
