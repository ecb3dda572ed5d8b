_base_ = 'runtime.py'
default_scope = 'mmseg'

default_hooks = dict(
    checkpoint=dict(by_epoch=False, interval=16000),
    visualization=dict(_delete_=True, type='SegVisualizationHook'))
visualizer = dict(type='SegLocalVisualizer', name='visualizer')
log_processor = dict(by_epoch=False)
