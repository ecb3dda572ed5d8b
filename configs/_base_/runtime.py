# Settings of every run. Segmentation adds those of seg_runtime.py.
custom_imports = dict(imports=['beit_mm'], allow_failed_imports=False)
default_scope = 'mmpretrain'

default_hooks = dict(
    runtime_info=dict(type='beit_mm.DeferredRuntimeInfoHook'),
    timer=dict(type='IterTimerHook'),
    logger=dict(type='beit_mm.MainProcessLoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='beit_mm.VerifiedCheckpointHook', interval=5, max_keep_ckpts=3),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='beit_mm.VisualizationHook', enable=False),
    pictures=dict(type='beit_mm.PicturesHook', interval=1000),
    report=dict(type='beit_mm.ReportHook'),
    collapse=dict(type='beit_mm.CollapseHook'),
    stop=dict(type='beit_mm.StopOnSignalHook'),
    watchdog=dict(type='beit_mm.WatchdogHook'))
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl', timeout=1800))  # seconds; the watchdog comes first and says more
vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
visualizer = dict(type='UniversalVisualizer', vis_backends=vis_backends)
log_level = 'INFO'
load_from = None
resume = False
# Processes draw different dropout, drop path and Mixup.
randomness = dict(seed=0, diff_rank_seed=True)
