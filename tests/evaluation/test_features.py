import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from PIL import Image
from torch import nn

from mmsalmask.checkpoint import save_backbone
from mmsalmask.errors import InputError
from mmsalmask.evaluation import accuracy, extract_features
from mmsalmask.evaluation.accuracy import accuracies, count_by_class
from mmsalmask.evaluation.features import EncoderView, extract_both, load_backbone
from mmsalmask.evaluation.labelled import CentreCrops, labelled_folders, read_centre
from mmsalmask.masking import high_pass


class _Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.frozen = nn.Dropout(0.9).eval()

    def forward(self, images):
        early = self.norm(self.first(images))
        return early, self.frozen(early.relu())


def test_features_are_the_average_of_the_last_map_in_eval_mode():
    torch.manual_seed(0)
    backbone = _Backbone()
    backbone.norm.running_mean.fill_(0.3)
    images = torch.randn(5, 3, 8, 8)
    labels = torch.tensor([3, 1, 4, 1, 5], dtype=torch.int32)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    features, classes = extract_features(
        backbone, [(images[:3], labels[:3]), (images[3:], labels[3:])], "cpu"
    )
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert backbone.training
    assert backbone.norm.training
    assert not backbone.frozen.training
    assert features.dtype == torch.float32
    assert not features.requires_grad
    assert classes.tolist() == [3, 1, 4, 1, 5]
    backbone.eval()
    for image, feature in zip(images, features, strict=True):
        last = backbone(image[None])[-1][0]
        torch.testing.assert_close(feature, last.flatten(1).sum(1) / last[0].numel())


def test_the_mode_is_restored_after_a_failure_too():
    backbone = _Backbone()
    with pytest.raises(RuntimeError):
        extract_features(backbone, [(torch.randn(1, 5, 8, 8), torch.zeros(1))], "cpu")
    assert backbone.norm.training


def test_features_of_nothing_are_refused():
    with pytest.raises(InputError, match="no images"):
        extract_features(_Backbone(), [], "cpu")


def test_crops_take_the_centre_in_rgb(tmp_path):
    picture = np.zeros((40, 120, 3), dtype=np.uint8)
    picture[:, 40:80] = (250, 120, 10)
    Image.fromarray(picture).save(tmp_path / "wide.png")
    crop, label = CentreCrops(35)({"img_path": tmp_path / "wide.png", "gt_label": 4})
    assert (crop.dtype, crop.shape, label) == (torch.uint8, (3, 35, 35), 4)
    assert (crop.flatten(1) == torch.tensor([[250], [120], [10]])).all()


@pytest.mark.parametrize("channels", [None, 3])
def test_of_a_very_thin_image_no_more_than_the_middle_is_resized(tmp_path, channels, monkeypatch):
    picture = np.zeros((3, 40_001, 3), dtype=np.uint8)
    picture[:, 20_000:] = 255
    for name, pixels in (("wide.png", picture), ("high.png", picture.transpose(1, 0, 2))):
        Image.fromarray(pixels).save(tmp_path / name)
    sizes, resize = [], Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda image, size, *a: sizes.append(size) or resize(image, size, *a)
    )
    wide, high = (
        read_centre(str(tmp_path / name), 35, channels).float() for name in ("wide.png", "high.png")
    )
    torch.testing.assert_close(wide, high.transpose(1, 2), atol=1, rtol=0)
    assert wide[:, :, 0].max() == 0
    assert wide[:, :, -1].min() == 255
    assert all(max(size) < 40 * 22 for size in sizes)


@pytest.mark.parametrize("rgb", [True, False])
@pytest.mark.parametrize("where", ["masker", "pipeline"])
def test_a_high_pass_encoder_gets_high_pass_images(rgb, where):
    images = torch.randint(0, 256, (2, 3, 24, 24), dtype=torch.uint8)
    masker = dict(
        type="mmsalmask.SaliencyMasker",
        strategy=dict(type="mmsalmask.HighPassNoise", kernel_size=5, sigma=2.0),
    )
    preprocessor = dict(mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0], to_rgb=rgb)
    config = dict(model=dict(data_preprocessor=preprocessor))
    if where == "masker":
        preprocessor["masker"] = masker
    else:
        transform = dict(type="mmsalmask.HighPassFilter", kernel_size=5, sigma=2.0)
        config["train_dataloader"] = dict(dataset=dict(pipeline=[dict(type="X"), transform]))
    seen = EncoderView(Config(config))(images)
    expected = images.float() if rgb else images.float()[:, [2, 1, 0]]
    expected = (expected - torch.tensor([1.0, 2, 3]).view(3, 1, 1)) / torch.tensor(
        [4.0, 5, 6]
    ).view(3, 1, 1)
    torch.testing.assert_close(seen, high_pass(expected, 5, 2.0))


def save(folder, config, high_pass):
    """An exported backbone that fits a config and says whether it learned from filtered images."""
    state = load_backbone(config, "none", seed=0).state_dict()
    save_backbone(state, folder / "a.pth", "openmmlab", {"high_pass": str(high_pass).lower()})
    return str(folder / "a.pth")


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("given", [True, False])
def test_the_wrong_filter_is_warned_of(tmp_path, config_file, caplog, learned, given):
    config = Config.fromfile(config_file)
    if given:
        config.train_dataloader = dict(pipeline=[dict(type="mmsalmask.HighPassFilter")])
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    try:
        load_backbone(config, save(tmp_path, config, learned), seed=0)
    finally:
        logger.removeHandler(caplog.handler)
    warned = [record for record in caplog.records if " LEARNED FROM " in record.getMessage()]
    assert len(warned) == (learned != given)
    assert all(record.levelname == "WARNING" for record in warned)


def test_training_images_come_before_test_images(tmp_path):
    for split, values in (("train", (3, 4, 5)), ("test", (6, 7))):
        for label, value in enumerate(values[:2]):
            for i in range(len(values) - label):
                folder = tmp_path / split / f"{label}"
                folder.mkdir(parents=True, exist_ok=True)
                pixels = np.full((16, 16, 3), 10 * value + i, np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    sets = labelled_folders(str(tmp_path / "train"), str(tmp_path / "test"), None, 0, size=16)
    view = EncoderView(Config({"model": {"data_preprocessor": {"to_rgb": True}}}))
    features = extract_both(nn.Identity(), view, sets, "cpu", batch_size=3, workers=0)
    assert features.train[:, 0].tolist() == [30, 31, 32, 40, 41]
    assert features.train_labels.tolist() == [0, 0, 0, 1, 1]
    assert features.test[:, 0].tolist() == [60, 61, 70]
    assert features.test_labels.tolist() == [0, 0, 1]


def test_the_untrained_net_depends_on_the_seed_alone(config_file):
    config = Config.fromfile(config_file)
    first, second, other = (
        load_backbone(config, "none", seed).state_dict()["conv1.weight"] for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_accuracy_counts_images_and_classes():
    labels = torch.tensor([0, 0, 0, 2])
    top1, per_class = accuracy(torch.tensor([0, 0, 0, 1]), labels)
    assert top1 == pytest.approx(75.0)
    assert per_class == pytest.approx(50.0)


def test_accuracy_of_several_classifiers_counts_classes_that_occur():
    labels = torch.tensor([0, 0, 0, 2])
    predicted = torch.tensor([[0, 0, 0, 1], [1, 0, 1, 2]])
    top1, per_class = accuracies(*count_by_class(predicted, labels, 4))
    assert top1 == pytest.approx([75, 50])
    assert per_class == pytest.approx([50, 100 * (1 / 3 + 1) / 2])
    with pytest.raises(InputError, match="no images to classify"):
        accuracies(torch.zeros(2, 3), torch.zeros(3))
