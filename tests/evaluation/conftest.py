"""A drawn set of two classes and the config of a small net, for the tools that evaluate."""

import pytest

from mmsalmask.data.demo import draw_demo_set


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    draw_demo_set(root, images_per_class=12, classes=("disk", "bars"), size=32)
    return root


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny.py"
    path.write_text(
        "default_scope = 'mmpretrain'\n"
        "model = dict(type='mmsalmask.MaskedMoCo', queue_len=8,\n"
        "    data_preprocessor=dict(type='mmsalmask.MaskingDataPreprocessor',\n"
        "        mean=[120., 110., 100.], std=[50., 60., 70.], to_rgb=True),\n"
        "    backbone=dict(type='mmpretrain.ResNet', depth=18, base_channels=8, stem_channels=8),\n"
        "    neck=dict(type='MoCoV2Neck', in_channels=64, hid_channels=64, out_channels=128),\n"
        "    head=dict(type='mmsalmask.HardNegativeContrastiveHead'))\n"
    )
    return path
