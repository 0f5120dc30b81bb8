"""Checkpoint files: read without running code from them, find the backbone, write it for others."""

from mmsalmask.checkpoint.checks import (
    check_complete,
    check_matches,
    check_start,
    check_style,
)
from mmsalmask.checkpoint.layouts import Found, backbone_state, find_backbone
from mmsalmask.checkpoint.loading import load_checkpoint, local_file, revive
from mmsalmask.checkpoint.names import to_detectron2, to_torchvision
from mmsalmask.checkpoint.origin import (
    config_of,
    describe,
    is_high_pass,
    read_config,
    saw_high_pass,
    typed_parts,
    view_size,
    warn_if_filter_differs,
)
from mmsalmask.checkpoint.writing import Naming, export_file, save_backbone

__all__ = [
    "Found",
    "Naming",
    "backbone_state",
    "check_complete",
    "check_matches",
    "check_start",
    "check_style",
    "config_of",
    "describe",
    "export_file",
    "find_backbone",
    "is_high_pass",
    "load_checkpoint",
    "local_file",
    "read_config",
    "revive",
    "save_backbone",
    "saw_high_pass",
    "to_detectron2",
    "to_torchvision",
    "typed_parts",
    "view_size",
    "warn_if_filter_differs",
]
