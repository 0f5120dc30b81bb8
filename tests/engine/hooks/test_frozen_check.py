"""What is called frozen is proven frozen."""

import pytest
import torch
from mmengine.runner import Runner

from mmsalmask.errors import InputError

BACKBONE = dict(type="ResNet", depth=18, base_channels=8, stem_channels=8, frozen_stages=4)


def train(work, hook=None, epochs=2, backbone=BACKBONE):
    """Train a small classifier on noise; return its runner."""
    runner = Runner(
        dict(
            type="ImageClassifier",
            backbone=backbone,
            neck=dict(type="GlobalAveragePooling"),
            head=dict(type="LinearClsHead", num_classes=2, in_channels=64),
        ),
        work_dir=str(work),
        experiment_name=str(work),
        train_dataloader=dict(
            batch_size=4,
            dataset=dict(type="FakeImages"),
            sampler=dict(type="DefaultSampler"),
            collate_fn=dict(type="default_collate"),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=1.0, weight_decay=0.1)),
        custom_hooks=[dict(type="mmsalmask.FrozenCheckHook", **(hook or {}))],
        default_scope="mmpretrain",
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=1)),
    )
    runner.train()
    return runner


@pytest.fixture(scope="module", autouse=True)
def fake_images():
    from mmpretrain.registry import DATASETS
    from mmpretrain.structures import DataSample

    class FakeImages(torch.utils.data.Dataset):
        def __len__(self):
            return 8

        def __getitem__(self, index):
            generator = torch.Generator().manual_seed(index)
            image = 9 * torch.randn(3, 32, 32, generator=generator) + 5
            return dict(inputs=image, data_samples=DataSample().set_gt_label(index % 2))

    DATASETS.register_module(module=FakeImages)
    yield
    DATASETS.module_dict.pop("FakeImages")


def test_a_frozen_backbone_passes_and_its_head_is_trained(tmp_path):
    runner = train(tmp_path)
    first = torch.load(tmp_path / "epoch_1.pth", weights_only=False)["state_dict"]
    last = runner.model.state_dict()
    for name, value in last.items():
        assert torch.equal(value, first[name]) == name.startswith("backbone."), name
    assert len(last) > 100


@pytest.mark.parametrize(
    ("change", "tensor"),
    [
        (dict(frozen_stages=3), "backbone.layer4"),
        (dict(frozen_stages=-1, norm_eval=True), "backbone.conv1.weight"),
        (dict(frozen_stages=-1), "backbone.conv1.weight"),
    ],
)
def test_a_backbone_that_learns_stops_the_run_before_its_checkpoint(tmp_path, change, tensor):
    with pytest.raises(InputError, match=rf"changed in training .*\({tensor}"):
        train(tmp_path, backbone={**BACKBONE, **change})
    assert not list(tmp_path.glob("*.pth"))


def test_moving_statistics_alone_are_found(tmp_path, monkeypatch):
    from mmpretrain.models import ResNet

    def train_mode(self, mode=True):
        torch.nn.Module.train(self, mode)
        for parameter in self.parameters():
            parameter.requires_grad_(False)

    monkeypatch.setattr(ResNet, "train", train_mode)
    with pytest.raises(InputError, match=r"60 tensors of backbone .*\(backbone\.bn1\.running_mean"):
        train(tmp_path)


def test_other_modules_may_learn_and_unknown_ones_are_named(tmp_path):
    with pytest.raises(InputError, match=r"^2 tensors of .*\(head\.fc\.weight"):
        train(tmp_path / "a", dict(modules=["backbone", "head"]))
    with pytest.raises(InputError, match=r"no module 'encoder', only .*backbone, neck, head"):
        train(tmp_path / "b", dict(modules="encoder"))
