_base_ = [
    '../_base_/models/mask-rcnn_r50-c4.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/detection_sgd_90k.py',
    '../_base_/detection_runtime.py',
]
