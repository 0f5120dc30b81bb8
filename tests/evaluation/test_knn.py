import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from PIL import Image
from torch import nn

from mmsalmask.algorithms.distributed import gather_rows
from mmsalmask.commands import knn
from mmsalmask.data import pack
from mmsalmask.engine import KNNHook
from mmsalmask.errors import InputError
from mmsalmask.evaluation import KNNMetric, accuracy, knn_classify, knn_classify_each
from mmsalmask.evaluation.features import load_backbone
from mmsalmask.evaluation.labelled import count_classes
from mmsalmask.registry import METRICS, MODELS

ROOT = Path(__file__).resolve().parents[2]


def slow_knn(bank, bank_labels, queries, k, temperature):
    """Wu et al. 2018, section 3.4, one query and one neighbour at a time."""
    predicted = []
    for query in queries.double().tolist():
        neighbours = []
        for entry, label in zip(bank.double().tolist(), bank_labels.tolist(), strict=True):
            dot = sum(a * b for a, b in zip(query, entry, strict=True))
            lengths = math.hypot(*query) * math.hypot(*entry)
            neighbours.append((dot / lengths, label))
        neighbours.sort(key=lambda neighbour: -neighbour[0])
        votes = {}
        for similarity, label in neighbours[:k]:
            votes[label] = votes.get(label, 0.0) + math.exp(similarity / temperature)
        predicted.append(min(votes, key=lambda label: (-votes[label], label)))
    return torch.tensor(predicted)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    bank_size=st.integers(1, 40),
    classes=st.integers(1, 6),
    dim=st.integers(2, 8),
    share=st.floats(0, 1),
    temperature=st.floats(0.05, 1.0),
    chunk=st.integers(1, 9),
)
def test_knn_agrees_with_one_query_at_a_time(
    seed, bank_size, classes, dim, share, temperature, chunk
):
    generator = torch.Generator().manual_seed(seed)
    bank = torch.randn(bank_size, dim, generator=generator, dtype=torch.float64)
    queries = 3 * torch.randn(7, dim, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (bank_size,), generator=generator)
    k = 1 + int(share * (bank_size - 1))
    got = knn_classify(bank, labels, queries, k, temperature, classes, chunk)
    assert got.dtype == torch.int64
    assert got.tolist() == slow_knn(bank, labels, queries, k, temperature).tolist()


def test_several_ks_at_once_agree_with_each_alone():
    generator = torch.Generator().manual_seed(5)
    bank, queries = torch.randn(2, 60, 4, generator=generator)
    labels = torch.randint(5, (60,), generator=generator)
    ks = (60, 1, 7)
    each = knn_classify_each(bank, labels, queries, ks, temperature=0.5, chunk=11)
    for k, got in zip(ks, each, strict=True):
        assert got.tolist() == slow_knn(bank, labels, queries, k, 0.5).tolist()
    assert len({tuple(got.tolist()) for got in each}) == 3


def test_one_neighbour_gives_each_bank_entry_its_own_label():
    bank = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(50) % 7
    assert knn_classify(bank, labels, 5 * bank, k=1).tolist() == labels.tolist()


def test_a_near_neighbour_outvotes_a_far_majority():
    bank = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    labels = torch.tensor([1, 0, 0])
    query = torch.tensor([[1.0, 0.2]])
    assert knn_classify(bank, labels, query, k=3, temperature=0.07).tolist() == [1]
    assert knn_classify(bank, labels, query, k=3, temperature=100.0).tolist() == [0]


def test_neighbours_beyond_the_kth_do_not_vote():
    bank = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.12], [1.0, 0.14]])
    labels = torch.tensor([2, 0, 0, 0])
    query = torch.tensor([[1.0, 0.0]])
    assert knn_classify(bank, labels, query, k=1, temperature=1.0).tolist() == [2]
    assert knn_classify(bank, labels, query, k=4, temperature=1.0).tolist() == [0]


def test_equal_votes_go_to_the_lowest_label():
    bank = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    assert knn_classify(bank, torch.tensor([4, 2, 1]), bank[:1], k=2).tolist() == [2]


def test_the_chunk_does_not_change_the_result():
    generator = torch.Generator().manual_seed(1)
    bank, queries = torch.randn(2, 60, 12, generator=generator)
    labels = torch.randint(5, (60,), generator=generator)
    whole = knn_classify(bank, labels, queries, chunk=60)
    for chunk in (1, 7, 59, 1000):
        assert knn_classify(bank, labels, queries, chunk=chunk).tolist() == whole.tolist()


def test_a_tiny_temperature_stays_finite_and_takes_the_nearest():
    generator = torch.Generator().manual_seed(2)
    bank, queries = torch.randn(2, 30, 6, generator=generator)
    labels = torch.randint(5, (30,), generator=generator)
    nearest = knn_classify(bank, labels, queries, k=1)
    assert knn_classify(bank, labels, queries, k=10, temperature=1e-5).tolist() == nearest.tolist()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"k": 6}, "k = 6 neighbours cannot be drawn from a bank of 5"),
        ({"k": 0}, "k = 0"),
        ({"temperature": 0.0}, "temperature"),
        ({"chunk": 0}, "chunk"),
        ({"num_classes": 2}, "labels run from 0 to 2"),
        ({"bank_labels": torch.tensor([0, 1, 2, 0, -1])}, "labels run from -1"),
        ({"bank_labels": torch.zeros(4, dtype=torch.long)}, "as many labels"),
        ({"queries": torch.ones(2, 4)}, "same number of columns"),
        ({"queries": torch.tensor([[1.0, float("nan"), 0.0]])}, "not finite"),
    ],
)
def test_knn_refuses_what_cannot_work(change, sentence):
    arguments = {
        "bank": torch.eye(5, 3) + 1,
        "bank_labels": torch.tensor([0, 1, 2, 0, 1]),
        "queries": torch.ones(2, 3),
        "k": 2,
        **change,
    }
    with pytest.raises(InputError, match=sentence):
        knn_classify(**arguments)


# KNNMetric


def labelled(seed=0, images=23, classes=4):
    """Features, classes, and which of them are the bank: more than queries, in no order."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(images, 5, generator=generator)
    labels = torch.randint(classes, (images,), generator=generator)
    return features, labels, torch.rand(images, generator=generator) < 0.7


def expected_figures(features, labels, in_bank, ks, temperature):
    figures = {}
    for k in ks:
        ending = "" if k == ks[0] else f"_k{k}"
        predicted = slow_knn(features[in_bank], labels[in_bank], features[~in_bank], k, temperature)
        top1, per_class = accuracy(predicted, labels[~in_bank])
        figures |= {f"knn_top1{ending}": top1, f"knn_mean_per_class{ending}": per_class}
    return figures


def test_the_metric_names_the_figures_of_each_k():
    data = labelled()
    metric = METRICS.build(dict(type="mmsalmask.KNNMetric", k=(9, 2), temperature=0.5, chunk=2))
    for part in zip(*(values.split(6) for values in data), strict=True):
        metric.add(*part)
    assert metric.evaluate(23) == pytest.approx(expected_figures(*data, (9, 2), 0.5))
    assert metric.results == []
    samples = [
        dict(feature=feature, gt_label=label[None], in_bank=side)
        for feature, label, side in zip(*data, strict=True)
    ]
    metric = KNNMetric(k=3, prefix="val")
    metric.process(None, samples[:10])
    metric.process(None, samples[10:])
    expected = expected_figures(*data, (3,), 0.07)
    assert metric.evaluate(23) == pytest.approx({f"val/{k}": v for k, v in expected.items()})


def test_the_metric_refuses_what_it_cannot_measure():
    features, labels, in_bank = labelled()
    metric = KNNMetric(k=2)
    with pytest.raises(InputError, match="needs an image for each"):
        metric.evaluate(5)
    metric.add(features, labels, torch.ones_like(in_bank))
    with pytest.raises(InputError, match="no images to classify"):
        metric.evaluate(23)
    metric = KNNMetric(k=23)
    metric.add(features, labels, in_bank)
    with pytest.raises(InputError, match="k = 23"):
        metric.evaluate(23)


def hook_figures(shapes: Path, config_file: Path) -> dict[str, float]:
    """What KNNHook finds of an untrained net, in this process's group."""
    runner = SimpleNamespace(cfg=Config.fromfile(config_file), model=nn.Module())
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        runner.model.backbone = load_backbone(runner.cfg, "none", seed=3)
    sides = [
        dict(type="mmsalmask.ImageFolder", data_root=f"{shapes}/{side}", with_label=True)
        for side in ("train", "test")
    ]
    metric = dict(type="mmsalmask.KNNMetric", k=(5, 20))
    hook = KNNHook(*sides, size=32, metric=metric, batch_size=7, num_workers=0)
    hook.before_train(runner)
    return hook._evaluate(torch.device("cpu"))


def evaluate_own_part(rank: int, folder: str, shapes: Path, config_file: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    data = labelled()
    # As mmengine's sampler deals 23 images: every second one, and the first once more at the end.
    own = torch.arange(rank, 24, 2) % 23
    metric = KNNMetric(k=(9, 2), temperature=0.5)
    for part in own.split(5):
        metric.add(*(values[part] for values in data))
    rows = torch.arange(3.0 - rank)[:, None] + 10 * rank
    found = (metric.evaluate(23), gather_rows(rows), hook_figures(shapes, config_file))
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def test_two_processes_measure_what_one_does_and_count_repeated_images_once(
    tmp_path, shapes, config_file
):
    arguments = (str(tmp_path), shapes, config_file)
    torch.multiprocessing.spawn(evaluate_own_part, args=arguments, nprocs=2)
    data = labelled()
    expected = expected_figures(*data, (9, 2), 0.5)
    for rank in (0, 1):
        figures, rows, of_hook = torch.load(tmp_path / f"{rank}.pt")
        assert figures == pytest.approx(expected)
        assert of_hook == pytest.approx(hook_figures(shapes, config_file))
        assert rows[:, 0].tolist() == [0, 1, 2, 10, 11]
    twice = [torch.cat([values, values[:1]]) for values in data]
    assert expected_figures(*twice, (9, 2), 0.5) != pytest.approx(expected)


# tools/knn.py


def run(capsys, *arguments):
    """Arguments → (exit status, standard output, errors)."""
    status = 0
    try:
        knn.main([str(argument) for argument in arguments])
    except SystemExit as leave:
        status = leave.code
    return status, *capsys.readouterr()


def by_hand(backbone, root):
    """kNN accuracy without the tool: one picture at a time."""
    backbone.eval()
    mean, std = torch.tensor([120.0, 110, 100]), torch.tensor([50.0, 60, 70])
    features, labels = {"train": [], "test": []}, {"train": [], "test": []}
    for split in features:
        for label, name in enumerate(("bars", "disk")):
            for path in sorted((root / split / name).iterdir()):
                image = Image.open(path).resize((37, 37), Image.Resampling.BILINEAR)
                image = np.asarray(image.crop((2, 2, 34, 34)), dtype=np.float32)
                image = ((torch.from_numpy(image) - mean) / std).permute(2, 0, 1)
                with torch.no_grad():
                    features[split].append(backbone(image[None])[-1].mean((0, 2, 3)))
                labels[split].append(label)
    bank, queries = (torch.stack(features[split]) for split in ("train", "test"))
    predicted = knn_classify(bank, torch.tensor(labels["train"]), queries, k=5)
    return accuracy(predicted, torch.tensor(labels["test"]))


def test_the_tool_evaluates_the_checkpoint_it_is_given(capsys, tmp_path, shapes, config_file):
    torch.manual_seed(11)
    backbone = MODELS.build(Config.fromfile(config_file).model.backbone)
    state = {f"backbone.{name}": value for name, value in backbone.state_dict().items()}
    torch.save({"state_dict": state, "meta": {}}, tmp_path / "epoch_1.pth")
    expected = by_hand(backbone, shapes)
    folders = ("--train", shapes / "train", "--test", shapes / "test", "--size", 32, "-k", 5)
    report = tmp_path / "results" / "knn.json"
    status, out, _ = run(
        capsys,
        *(config_file, tmp_path / "epoch_1.pth", *folders, "--workers", 0, "--json", report),
    )
    assert status == 0
    result = json.loads(report.read_text())
    assert (result["top1"], result["mean_per_class"]) == pytest.approx(expected)
    assert (result["train_images"], result["test_images"], result["classes"]) == (24, 6, 2)
    assert f"top-1 {expected[0]:.1f} %" in out


def test_the_tool_votes_with_several_numbers_of_neighbours(capsys, shapes, config_file):
    words = ("--train", shapes / "train", "--test", shapes / "test", "--size", 32, "--workers", 0)
    report = shapes.parent / "knn.json"
    singly = []
    for k in (7, 1, 24):
        assert run(capsys, config_file, "none", *words, "-k", k, "--json", report)[0] == 0
        result = json.loads(report.read_text())
        singly.append({name: result[name] for name in ("top1", "mean_per_class")})
    status, out, _ = run(capsys, config_file, "none", *words, "-k", 7, 1, 24, "--json", report)
    result = json.loads(report.read_text())
    assert status == 0
    assert result["by_k"] == dict(zip(("7", "1", "24"), singly, strict=True))
    assert {"command", "commit", "hardware", "torch"} < result.keys()
    assert (result["top1"], result["k"]) == (singly[0]["top1"], 7)
    assert [f"(k={k}," in line for k, line in zip((7, 1, 24), out.splitlines(), strict=True)]


def test_the_tool_says_that_test_images_are_training_images(
    capsys, tmp_path, shapes, config_file, monkeypatch
):
    (tmp_path / "same").symlink_to(shapes / "train")
    for label in ("bars", "disk"):
        (tmp_path / "overlap" / label).mkdir(parents=True)
        for side in ("train", "test"):
            for image in sorted((shapes / side / label).iterdir())[:2]:
                (tmp_path / "overlap" / label / f"{side}_{image.name}").symlink_to(image)
    report = tmp_path / "knn.json"
    words = ("none", "--train", shapes / "train", "--size", 32, "--workers", 0, "--json", report)
    tests = {"test": 0, shapes / "train": 24, tmp_path / "same": 24, tmp_path / "overlap": 4}
    for folder, shared in tests.items():
        # A logger writes to where it was made: into another test's output.
        monkeypatch.setattr(MMLogger, "_instance_dict", MMLogger._instance_dict.copy())
        MMLogger._instance_dict.pop("evaluation", None)
        status, *told = run(capsys, config_file, *words, "--test", shapes / folder)
        result = json.loads(report.read_text())
        assert (status, result["shared_images"]) == (0, shared)
        sentence = f"{shared} of the {result['test_images']} test images ARE TRAINING IMAGES"
        assert (sentence in "".join(told)) is (shared > 0)


def test_the_tool_says_what_is_wrong_with_a_folder_by_its_option(
    capsys, tmp_path, shapes, config_file
):
    words = (config_file, "none", "--size", 32)
    for option, other in (("train", "test"), ("test", "train")):
        given = (f"--{option}", tmp_path / "nope", f"--{other}", shapes / other)
        status, _, err = run(capsys, *words, *given)
        assert status == 2
        assert err == (
            f"error: image folder {tmp_path}/nope does not exist: give --{option} a folder "
            "<class>/<image>\n"
        )
    flat = shapes / "train" / "bars"
    status, _, err = run(capsys, *words, "--train", flat, "--train-per-class", 2)
    assert status == 2
    assert err.endswith(
        f"lie in {flat} itself and have no class: labels need every image in a subfolder named "
        f"after its class, {flat}/<class>/<image>\n"
    )


def test_images_are_seen_at_the_size_of_the_pretraining(capsys, shapes, config_file, tmp_path):
    folders = ("--train", shapes / "train", "--test", shapes / "test", "--workers", 0)
    found = []
    for more in ((), ("--size", 48)):
        augment = "model.data_preprocessor.augment"
        given = ("--cfg-options", f"{augment}.type=mmsalmask.DeviceAugmentation")
        given += (f"{augment}.view.type=mmsalmask.RandomView", f"{augment}.view.size=48")
        words = (config_file, "none", *folders, "--json", tmp_path / "knn.json", *more, *given)
        status, out, err = run(capsys, *words)
        assert status == 0, err
        assert ", 48 px, none)" in out
        found.append(json.loads((tmp_path / "knn.json").read_text()))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("option", "value"), [("--batch-size", 0), ("--workers", -1), ("--size", 0)]
)
def test_the_tool_refuses_numbers_that_ask_for_nothing(capsys, shapes, config_file, option, value):
    words = ("--train", shapes / "train", "--test", shapes / "test", option, value)
    status, _, err = run(capsys, config_file, "none", *words)
    assert (status, err.count("\n")) == (2, 1)
    assert err.startswith(f"error: {option[2:].replace('-', '_')} must be an integer")


@pytest.mark.parametrize("device", ["gpuuu", "cuda"])
def test_the_tool_refuses_a_device_that_is_not_there(capsys, shapes, config_file, device):
    words = ("--train", shapes / "train", "--test", shapes / "test", "--size", 32)
    status, _, err = run(capsys, config_file, "none", *words, "--device", device)
    told = f"error: --device {device}: PyTorch finds no such device here, only cpu"
    assert (status, err.startswith(told), err.count("\n")) == (2, True, 1)


def test_the_tool_splits_one_folder_by_the_seed(capsys, tmp_path, shapes, config_file):
    words = ("--train", shapes / "train", "--train-per-class", 5, "--size", 32, "--workers", 0)
    report, found = tmp_path / "knn.json", []
    for seed in (3, 3, 4):
        words_of_seed = (*words, "-k", 3, "--seed", seed, "--json", report)
        assert run(capsys, config_file, "none", *words_of_seed)[0] == 0
        found.append(json.loads(report.read_text()))
    assert found[0] == found[1]
    assert found[0]["top1"] != found[2]["top1"]
    assert (found[0]["train_images"], found[0]["test_images"]) == (10, 14)
    status, _, errors = run(capsys, config_file, "none", *words[:3], 12)
    assert (status, "class 'bars' of" in errors) == (2, True)


def test_the_tool_says_in_one_line_what_is_wrong(capsys, tmp_path, shapes, config_file):
    def error(*arguments):
        status, _, errors = run(capsys, config_file, *arguments, "--size", 32, "-k", 5)
        lines = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert status == 2
        assert len(lines) == 1
        return lines[0]

    train, test = shapes / "train", shapes / "test"
    assert "no checkpoint" in error(tmp_path / "no.pth", "--train", train, "--test", test)
    assert "does not exist" in error("none", "--train", tmp_path / "no", "--test", test)
    other = tmp_path / "other"
    (other / "disk").mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(other / "disk" / "a.png")
    assert "same classes" in error("none", "--train", train, "--test", other)
    (other / "bars").mkdir()
    (other / "bars" / "broken.png").write_bytes(b"no picture")
    for workers in (0, 1):
        sentence = error("none", "--train", train, "--test", other, "--workers", workers)
        assert "broken.png cannot be read" in sentence
        assert "Traceback" not in sentence


def test_shards_are_evaluated_as_the_folder_they_were_packed_from(tmp_path, config_file):
    """Folders 1 to 11: sorted as words in both."""
    for side, shift in (("train", 0), ("test", 3)):
        for label in range(1, 12):
            (tmp_path / side / str(label)).mkdir(parents=True)
            picture = Image.new("RGB", (32, 32), (20 * label + shift, 255 - 20 * label, 90))
            picture.save(tmp_path / side / str(label) / "x.png")
        pack(tmp_path / side, tmp_path / f"{side}-shards")
    options = dict(k=1, size=32, workers=0, device="cpu")
    found = [
        knn.knn(str(config_file), "none", *(str(tmp_path / side) for side in sides), **options)
        for sides in (("train", "test"), ("train", "test-shards"), ("train-shards", "test"))
    ]
    assert [result["classes"] for result in found] == [11] * 3
    assert found[0]["top1"] == found[1]["top1"] == found[2]["top1"] > 50


def test_one_class_alone_is_refused():
    side = SimpleNamespace(metainfo={"classes": ("cat",)}, data_root="a")
    with pytest.raises(InputError, match="a has one class alone, 'cat', so every answer is right"):
        count_classes(side, side)


def test_the_same_classes_in_another_order_are_refused():
    sides = [
        SimpleNamespace(metainfo={"classes": names}, data_root=root)
        for root, names in (("a", ("cat", "dog")), ("b", ("dog", "cat")))
    ]
    with pytest.raises(InputError, match="another order: class 0 is 'cat' in one and 'dog'"):
        count_classes(*sides)
