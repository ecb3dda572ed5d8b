_base_ = 'runtime.py'
default_scope = 'mmseg'

default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=16000),
    visualization=dict(_delete_=True, type='beit_mm.SegVisualizationHook'))
visualizer = dict(type='SegLocalVisualizer', name='visualizer')
log_processor = dict(by_epoch=False)
env_cfg = dict(cudnn_benchmark=True)
