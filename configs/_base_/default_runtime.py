default_scope = 'mmpretrain'

default_hooks = dict(
    # Losses are fetched from the device once per log line, not once per step.
    runtime_info=dict(type='mmsalmask.DeferredRuntimeInfoHook'),
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    # Writes to a temporary file, then renames; removes an outdated checkpoint only afterwards.
    checkpoint=dict(type='mmsalmask.SafeCheckpointHook', interval=10, max_keep_ckpts=3),
    sampler_seed=dict(type='DistSamplerSeedHook'))

custom_hooks = [
    # Adds images/s and the actual mask ratios to each log line.
    dict(type='mmsalmask.TrainingStatisticsHook', interval=50),
    # Pictures of views, saliency and masks, under work_dir/masks.
    dict(type='mmsalmask.MaskGalleryHook', interval=10),
    dict(type='mmsalmask.BrokenImagesHook', limit=0.01),
    # Skips steps that are not finite and tells their files; stops when they last.
    dict(type='mmsalmask.NonFiniteHook', limit=10),
    # Warns of collapsing embeddings, a stale queue and saliency maps that say nothing.
    dict(type='mmsalmask.CollapseHook', interval=50),
]

visualizer = dict(
    type='UniversalVisualizer',
    vis_backends=[dict(type='LocalVisBackend'),
                  dict(type='TensorboardVisBackend')])

# Channels last and a fused optimizer: the same losses but for rounding, sooner. False: as mmengine.
fast_step = True
# Pays off on a GPU after some minutes of compiling; needs a C++ compiler.
compile_encoders = False

env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'))

# Means over the window, also of accuracies (not of ``accuracy/top1``, an evaluation's).
log_processor = dict(
    type='LogProcessor',
    window_size=50,
    mean_pattern=r'.*(loss|time|data_time|grad_norm|_accuracy).*')
log_level = 'INFO'
load_from = None
resume = False
randomness = dict(seed=0)
