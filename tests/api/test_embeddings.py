"""Embeddings, evaluation and diagnosis, on drawn images and on real photos."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from api_photos import draw
from mmengine.logging import MMLogger

import mmsalmask as sm
from mmsalmask.api.diagnosis import judge
from mmsalmask.commands import diagnose as diagnose_command
from mmsalmask.commands import embed as embed_command
from mmsalmask.commands.linear import linear
from mmsalmask.errors import InputError
from mmsalmask.evaluation.unlabelled import alignment, mean_distance, rank_me

ROOT = Path(__file__).resolve().parents[2]
PLAIN = "mocov2_resnet18-w16_1xb128-coslr-50e_imagenette-64px"
FILTERED = "mocov2-salmask-highpass_resnet18-w16_1xb128-coslr-50e_imagenette-64px"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Ten images, a copy of the first, and a broken one."""
    folder = draw(tmp_path_factory.mktemp("embed") / "images", 10)
    shutil.copy(folder / "00.png", folder / "copy.png")
    (folder / "broken.png").write_bytes((folder / "01.png").read_bytes()[:60])
    return folder


@pytest.fixture(scope="module")
def embeddings(folder):
    return sm.embed(PLAIN, folder, workers=0, batch_size=4)


def test_features_are_those_of_the_encoder_image_by_image(embeddings, folder):
    encoder = sm.get_model(PLAIN)
    assert embeddings.features.dtype == np.float32
    assert embeddings.paths == sorted(str(p) for p in folder.iterdir() if p.name != "broken.png")
    assert embeddings.skipped == [str(folder / "broken.png")]
    with torch.no_grad():
        for path, row in zip(embeddings.paths, embeddings.features, strict=True):
            wanted = encoder(encoder.transform(path)[None])[0]
            torch.testing.assert_close(torch.from_numpy(row), wanted, atol=1e-4, rtol=1e-4)


def test_neighbours_copies_and_outliers_are_as_the_slow_ones(embeddings, folder, monkeypatch):
    rows = embeddings.features.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    similar = {
        (a, b): float(rows[i] @ rows[j])
        for i, a in enumerate(embeddings.paths)
        for j, b in enumerate(embeddings.paths)
        if i != j
    }
    first, copy = str(folder / "00.png"), str(folder / "copy.png")
    found = embeddings.nearest(first, k=3)
    assert found[0] == (copy, pytest.approx(1))
    with monkeypatch.context() as patched:  # the others' neighbours are not looked for
        patched.setattr(torch.Tensor, "topk", lambda rows, *_, **__: pytest.fail(str(rows.shape)))
        with pytest.raises(pytest.fail.Exception, match=r"\[1, 11\]"):
            embeddings.nearest(first)
    wanted = sorted((s for (a, _), s in similar.items() if a == first), reverse=True)[:3]
    assert [s for _, s in found] == pytest.approx(wanted)
    threshold = sorted(similar.values())[-7] - 1e-9
    pairs = {(a, b) for a, b, _ in embeddings.duplicates(threshold)}
    slow = {(a, b) for (a, b), s in similar.items() if s >= threshold and a < b}
    assert pairs == slow
    assert embeddings.duplicates(0.9999)[0][:2] == (first, copy)
    scores = {
        a: 1 - np.mean(sorted((s for (b, _), s in similar.items() if a == b), reverse=True)[:2])
        for a in embeddings.paths
    }
    strangest = max(scores, key=scores.get)
    assert embeddings.outliers(1, k=2) == [(strangest, pytest.approx(scores[strangest]))]


def test_embeddings_are_saved_and_loaded_as_one_file(embeddings, tmp_path):
    embeddings.save(tmp_path / "e.npz")
    again = sm.Embeddings.load(tmp_path / "e.npz")
    assert np.array_equal(again.features, embeddings.features)
    assert (again.paths, again.skipped, again.model) == (
        embeddings.paths,
        embeddings.skipped,
        embeddings.model,
    )
    with pytest.raises(InputError, match="name the file so"):
        embeddings.save(tmp_path / "e.csv")
    (tmp_path / "other.npz").write_bytes(b"no")
    np.savez(tmp_path / "code.npz", features=np.array([print], dtype=object))
    for name in ("other", "code"):
        with pytest.raises(InputError, match="holds no embeddings"):
            sm.Embeddings.load(tmp_path / f"{name}.npz")
    with pytest.raises(InputError, match="there are no embeddings"):
        sm.Embeddings.load(tmp_path / "none.npz")


def test_the_map_shows_every_image_as_a_point_and_some_as_pictures(embeddings):
    figure = embeddings.map(thumbnails=4)
    (axis,) = figure.axes
    assert len(axis.collections[0].get_offsets()) == len(embeddings)
    assert 1 <= len(axis.artists) <= 4


def test_an_image_that_is_none_of_them_gets_the_nearest_name(embeddings, folder):
    with pytest.raises(InputError, match=r"is none of the 11 images: did you mean '.*00\.png'"):
        embeddings.nearest(folder / "00.pgn")
    with pytest.raises(InputError, match="not 11: give more images or a smaller k"):
        embeddings.nearest(folder / "00.png", k=11)


def test_an_encoder_that_was_moved_can_be_trained_afterwards(folder, monkeypatch, tmp_path):
    """As from the CPU to a GPU and back: every tensor is made anew."""
    encoder = sm.get_model(PLAIN).train()
    move = encoder.to
    monkeypatch.setattr(encoder, "to", lambda place: move(place)._apply(torch.clone))
    sm.embed(encoder, folder, workers=0)
    sm.diagnose(encoder, draw(tmp_path / "many", 16), workers=0)
    assert encoder.training
    assert not any(t.is_inference() for t in [*encoder.parameters(), *encoder.buffers()])
    encoder(torch.randn(2, 3, 64, 64)).sum().backward()


def test_a_gpu_that_is_not_there_is_told(folder, monkeypatch):
    for call in (
        lambda: sm.embed(PLAIN, folder, device="cuda"),
        lambda: sm.diagnose(PLAIN, folder, device="cuda"),
        lambda: sm.evaluate(PLAIN, folder, folder, device="cuda"),
    ):
        with pytest.raises(InputError, match=r"device 'cuda': PyTorch finds no such device"):
            call()


def test_test_images_that_are_trained_on_are_told(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(MMLogger, "_instance_dict", {})  # a logger writes to where it was made
    for kind in ("a", "b"):
        shutil.copytree(folder, tmp_path / kind, ignore=shutil.ignore_patterns("broken.png"))
    sm.evaluate(PLAIN, tmp_path, tmp_path, workers=0, k=1)
    told = capsys.readouterr()
    assert "22 of the 22 test images ARE TRAINING IMAGES" in told.out + told.err


def test_one_folder_is_split_by_the_seed_as_the_command_splits_it(tmp_path):
    for seed, kind in enumerate("ab"):
        draw(tmp_path / "labelled" / kind, 7, seed)
    labelled = str(tmp_path / "labelled")
    result = sm.evaluate(PLAIN, labelled, train_per_class=4, k=3, workers=0, seed=5)
    assert (result.train_images, result.test_images, result.classes) == (8, 6, 2)
    config, weights = f"mmsalmask::imagenette/{PLAIN}.py", str(ROOT / "weights" / f"{PLAIN}.pth")
    told = linear(config, weights, labelled, train_per_class=4, seed=5, knn=3, workers=0)
    assert result.linear == told["top1"]
    assert result.knn == told["knn"]["top1"]


def test_a_folder_to_classify_or_a_split_is_needed_and_not_both(tmp_path):
    for words in ({}, {"test": tmp_path, "train_per_class": 3}):
        with pytest.raises(InputError, match=r"give either test, .* or train_per_class"):
            sm.evaluate(PLAIN, tmp_path, **words)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda found: found.outliers(-3), "count must be"),
        (lambda found: found.outliers(k=0), "k must be"),
        (lambda found: found.duplicates(3), "threshold must be a cosine"),
    ],
)
def test_numbers_that_ask_for_nothing_are_refused(ask, words, embeddings):
    with pytest.raises(InputError, match=words):
        ask(embeddings)


def test_a_size_of_nothing_is_refused(folder):
    for ask in (sm.embed, sm.diagnose):
        with pytest.raises(InputError, match="size must be an integer of at least 1, got 0"):
            ask(PLAIN, folder, size=0, workers=0)
    with pytest.raises(InputError, match="size must be"):
        sm.evaluate(PLAIN, folder.parent, folder.parent, size=0, workers=0)


def test_an_array_is_no_picture():
    with pytest.raises(InputError, match=r"not ndarray: take PIL\.Image\.fromarray"):
        sm.get_model(PLAIN).transform(np.zeros((64, 64, 3), dtype=np.uint8))


def test_labels_that_are_missing_are_told(folder, tmp_path):
    with pytest.raises(InputError, match="labels need every image in a subfolder"):
        sm.evaluate(PLAIN, folder, folder, workers=0)
    with pytest.raises(InputError, match="does not exist: give a folder <class>/<image>"):
        sm.evaluate(PLAIN, tmp_path / "no", folder)


def test_evaluation_classifies_photos(photos, tmp_path):
    """With 40 images of a class to learn from: worse than stated, far better than chance."""
    root = photos("imagenette_112") / "imagenette_112"
    for side in ("train", "val"):
        for kind in sorted((root / side).iterdir()):
            (tmp_path / side / kind.name).mkdir(parents=True)
            for photo in sorted(kind.iterdir())[:40]:
                (tmp_path / side / kind.name / photo.name).symlink_to(photo)
    result = sm.evaluate(FILTERED, tmp_path / "train", tmp_path / "val", workers=0)
    assert (result.classes, result.train_images, result.test_images) == (10, 400, 400)
    for figure in (result.knn, result.linear, result.knn_mean_per_class):
        assert 28 < figure < 56


# -------------------------------------------------------------------------------------- diagnosis


@pytest.mark.parametrize("name", [PLAIN, FILTERED])
def test_a_trained_encoder_is_told_from_an_untrained_one_by_photos(name, photos):
    root = photos("imagenette_112") / "imagenette_112" / "val"
    good = sm.diagnose(name, root, images=300, workers=0)
    assert good.good
    assert good.images == 300
    assert good.verdict.startswith("Learned: ")
    trained, fresh, _ = good.figures["relative_alignment"]
    assert trained < 0.8 * fresh
    bad = sm.diagnose(sm.get_model(name, pretrained=False), root, images=300, workers=0, seed=1)
    assert not bad.good or bad.figures["relative_alignment"].value > 1.5 * trained


def test_figures_are_the_measures_of_both_encoders_views():
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(40, 6, generator=generator)
    trained = base, base + 0.1 * torch.randn(40, 6, generator=generator)
    fresh = tuple(torch.randn(40, 6, generator=generator) for _ in range(2))
    found = judge(trained, fresh)
    assert found.good
    assert found.figures["rank_me"].value == rank_me(trained[0])
    assert found.figures["alignment"][:2] == (alignment(*trained), alignment(*fresh))
    share = alignment(*trained) / mean_distance(trained[0])
    assert found.figures["relative_alignment"].value == pytest.approx(share)
    for name in found.figures:
        assert name in str(found)
    assert judge(fresh, trained).verdict.startswith("Not learned: ")


def test_collapse_is_told():
    noise = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    one = torch.ones(40, 6) + 1e-3 * noise
    found = judge((one, one), (noise, -noise))
    assert not found.good
    assert found.verdict.startswith("Collapsed: ")
    assert "collapse" in found.figures["spread"].sentence


def test_too_few_images_are_told(folder):
    with pytest.raises(InputError, match="only 11 images can be read, too few"):
        sm.diagnose(PLAIN, folder, workers=0)


# ------------------------------------------------------------------------------------- commands


def test_embed_and_diagnose_are_commands(folder, images, tmp_path, capsys):
    out = tmp_path / "e.npz"
    embed_command.main(
        [PLAIN, str(folder), "-o", str(out), "--workers", "0", "--duplicates", "0.9999"]
        + ["--outliers", "1", "--map", str(tmp_path / "new" / "map.png")]
    )
    told = capsys.readouterr().out
    assert "1 images cannot be read" in told
    assert f"1.0000  {folder / '00.png'}  {folder / 'copy.png'}" in told
    assert f"{out}: 11 images, 128 features each" in told
    assert (tmp_path / "new" / "map.png").stat().st_size > 10_000
    assert len(sm.Embeddings.load(out)) == 11
    result = tmp_path / "d.json"
    diagnose_command.main([PLAIN, str(images), "--workers", "0", "--json", str(result)])
    told = capsys.readouterr().out
    written = json.loads(result.read_text())
    assert written["verdict"] in " ".join(told.split())
    assert written["figures"]["rank_me"]["value"] > 1
    with pytest.raises(SystemExit) as exit:
        embed_command.main([PLAIN, str(tmp_path / "nowhere")])
    assert exit.value.code == 2
    assert capsys.readouterr().err.startswith("error: image folder ")


@pytest.mark.parametrize(("name", "words"), [("map", "name the picture .png"), ("map.docx", "or")])
def test_a_map_that_cannot_be_written_is_told_before_anything_is_computed(
    folder, tmp_path, capsys, monkeypatch, name, words
):
    monkeypatch.setattr(sm, "embed", lambda *_: pytest.fail("computed"))
    for file in (tmp_path / name, folder / "00.png" / "map.png"):
        with pytest.raises(SystemExit) as exit:
            embed_command.main([PLAIN, str(folder), "--map", str(file)])
        assert exit.value.code == 2
        told = capsys.readouterr().err
        assert (words in told) if file.name == name else ("its folder cannot be made (" in told)


def test_a_map_is_written_whole_or_told(folder, tmp_path, capsys, embeddings, monkeypatch):
    monkeypatch.setattr(sm, "embed", lambda *_: embeddings)
    words = [PLAIN, str(folder), "-o", str(tmp_path / "e.npz"), "--map"]
    embed_command.main([*words, str(tmp_path / "map.SVG")])
    assert "<svg" in (tmp_path / "map.SVG").read_text()
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(SystemExit, match="2"):
        embed_command.main([*words, str(tmp_path / "taken.png")])
    assert "taken.png cannot be written (Is a directory)" in capsys.readouterr().err


def test_the_map_shows_no_picture_of_a_file_that_is_gone(embeddings, folder, tmp_path):
    gone = [path.replace(str(folder), str(tmp_path)) for path in embeddings.paths]
    moved = sm.Embeddings(embeddings.features, gone)
    (axis,) = moved.map().axes
    assert (len(axis.collections[0].get_offsets()), len(axis.artists)) == (11, 0)


def test_a_terminal_shows_how_far_it_is_and_a_pipe_does_not(folder, capfd, monkeypatch):
    sm.embed(PLAIN, folder, workers=0, batch_size=4)
    assert capfd.readouterr().err == ""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    sm.embed(PLAIN, folder, workers=0, batch_size=4)
    told = capfd.readouterr().err
    assert "embedding" in told
    assert "100%" in told
