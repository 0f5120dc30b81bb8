"""What the picture of the masks shows, and what its line of statistics says."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmsalmask.algorithms import MaskingDataPreprocessor, MaskUNet
from mmsalmask.commands import browse_masks
from mmsalmask.masking import MaskedViews, MeanFill, SaliencyMasker
from mmsalmask.saliency import BoundaryPriorSaliency
from mmsalmask.visualization import gallery
from mmsalmask.visualization.mask_shares import Ratios

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "configs/demo/mocov2-salmask-{}_resnet18_demo.py"
MASKER = "model.data_preprocessor.masker"
VIEW = "model.data_preprocessor.augment.view"
WORKERS = str(ROOT / "tests" / "worker_views.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Seven pictures of a coloured block on a textured ground."""
    path, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for index in range(7):
        pixels = rng.integers(60, 120, (48, 60, 3))
        top, left = rng.integers(4, 20, 2)
        pixels[top : top + 24, left : left + 24] = rng.integers(0, 255, 3)
        Image.fromarray(pixels.astype(np.uint8)).save(path / f"{index}.png")
    return path


@pytest.fixture
def browse(tmp_path, capsys, monkeypatch):
    """Run the tool here: images and options → exit status, lines, errors, drawn groups, views."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, config="mean", options=(), out="masks.png"):
        drawn, seen = [], []
        draw, add = gallery.draw_columns, Ratios.add

        def draw_and_keep(groups, *rest):
            drawn.extend(groups)
            draw(groups, *rest)

        def add_and_keep(ratios, views):
            seen.append(views)
            add(ratios, views)

        small = [] if config == WORKERS else [f"{VIEW}.size=32"]
        config = config if config.endswith(".py") else str(ROOT / CONFIG.format(config))
        command = [config, "--rows", "1", *map(str, arguments), "-o", out]
        if options := [*small, *options]:
            command += ["--cfg-options", *options]
        status = 0
        with monkeypatch.context() as patch:
            patch.setattr(gallery, "draw_columns", draw_and_keep)
            patch.setattr(Ratios, "add", add_and_keep)
            try:
                browse_masks.main(command)
            except SystemExit as leave:
                status = leave.code
        told = capsys.readouterr()
        return status, told.out.splitlines(), told.err, drawn, seen

    return run


def titles(groups) -> list[list[str]]:
    return [[column.title for column in columns] for _, columns in groups]


def cells(path, groups, size=(32, 32), dpi=140):
    """The mean colours of the cells of a drawn PNG, (rows, columns, 3), found by their places."""
    png = np.asarray(Image.open(path).convert("RGB")) / 255
    rows, means, left = len(groups[0][1][0].pictures), [], 0.05
    for _, columns in groups:
        for _ in columns:
            tall, top = 1.35 * size[0] / size[1], 0.195
            means.append([])
            for row in range(rows):
                y, x = (top + row * (tall + 0.05)) * dpi, left * dpi
                box = png[round(y) + 2 : round(y + tall * dpi) - 2, round(x) + 2 :][:, :185]
                means[-1].append(box.mean((0, 1)))
            left += 1.4
        left += 0.2
    return np.array(means).transpose(1, 0, 2)


@pytest.mark.parametrize(
    ("config", "more", "query", "key"),
    [
        ("mean", [], ["masked query"], ["hard negative"]),
        ("blur", ["hard_negatives=2"], ["masked query"], ["hard negative 1", "hard negative 2"]),
        ("blur", ["masked_views=both"], ["masked query"], ["masked key", "hard negative"]),
        ("highpass", [], ["masked query"], ["encoded key", "hard negative"]),
        (
            "highpass",
            ["masked_views=none", "local_crops=2"],
            ["encoded query", "local crop 1", "local crop 2"],
            ["encoded key", "hard negative"],
        ),
    ],
)
def test_the_picture_shows_every_step_for_the_asked_rows(
    browse, folder, tmp_path, config, more, query, key
):
    options = [f"{MASKER}.{option}" for option in more]
    status, lines, errors, drawn, _ = browse(folder, "--rows", 3, config=config, options=options)
    assert (status, lines[-1]) == (0, "masks.png"), errors
    assert titles(drawn) == [
        ["query view", "saliency", "foreground", *query],
        ["key view", "foreground", *key],
    ]
    columns = [column for _, group in drawn for column in group]
    assert all(column.covered == (column.title == "foreground") for column in columns)
    wanted = [[c.pictures[r].mean((0, 1)) for _, cs in drawn for c in cs] for r in range(3)]
    np.testing.assert_allclose(cells(tmp_path / "masks.png", drawn), wanted, atol=0.03)


def test_without_a_localizer_there_is_no_saliency_to_show(browse, folder):
    options = [f"{MASKER}.{o}" for o in ("localizer=None", "patches=random", "hard_negatives=0")]
    _, lines, _, drawn, seen = browse(folder, options=options)
    assert titles(drawn) == [["query view", "masked query"], ["key view"]]
    share = 100 * np.mean([view.query_mask.float().mean() for view in seen])
    assert lines[0] == f"query: {share:.1f} % of the view masked (7 views)"


def test_a_non_square_view_keeps_its_shape(browse, folder, tmp_path):
    options = ["train_dataloader.dataset.pipeline.1.transforms.0.0.scale=(48,24)"]
    status, _, errors, drawn, seen = browse(folder, "--rows", 2, config=WORKERS, options=options)
    assert (status, *seen[0].query.shape[-2:]) == (0, 48, 24), errors
    wanted = [[c.pictures[r].mean((0, 1)) for _, cs in drawn for c in cs] for r in range(2)]
    found = cells(tmp_path / "masks.png", drawn, (48, 24))
    np.testing.assert_allclose(found, wanted, atol=0.03)


def test_the_localizers_own_map_is_shown_when_asked_for(browse, folder):
    shapes = []
    for flag in ([], ["--localizer-map"]):
        _, lines, _, drawn, _ = browse(folder, *flag)
        shapes.append((drawn[0][1][1].pictures.shape[1:3], lines[0]))
    (pooled, line), (own, same_line) = shapes
    assert (pooled, own) == ((7, 7), (28, 28))
    assert line == same_line


def slow_shares(mask, where) -> tuple[float, float]:
    """Of one image, pixel by pixel: shares of foreground and background under the mask."""
    channels, height, width = mask.shape
    covered, area = [0.0, 0.0], [0, 0]
    for y in range(height):
        for x in range(width):
            row, column = y * where.shape[0] // height, x * where.shape[1] // width
            side = 0 if where[row][column] else 1
            area[side] += 1
            covered[side] += sum(bool(mask[c][y][x]) for c in range(channels)) / channels
    return tuple(c / a if a else float("nan") for c, a in zip(covered, area, strict=True))


@pytest.mark.parametrize("config", ["mean", "highpass"])
def test_the_line_says_what_a_count_of_pixels_finds(browse, folder, config):
    options = [f"{MASKER}.hard_negatives=2", "train_dataloader.batch_size=4"]
    status, lines, errors, _, seen = browse(folder, "--batches", 3, config=config, options=options)
    assert status == 0, errors
    assert [len(views.query) for views in seen] == [4, 4, 4]
    query, hard, object_ = [], [], []
    for views in seen:
        for index in range(len(views.query)):
            where = views.query_foreground[index].numpy()
            query.append(slow_shares(views.query_mask[index].numpy(), where))
            whole = slow_shares(np.ones((1, 32, 32), bool), where)
            assert whole == pytest.approx((1, 1))
            object_.append(
                np.mean([where[y * 7 // 32][x * 7 // 32] for y in range(32) for x in range(32)])
            )
            key_where = views.key_foreground[index].numpy()
            for mask in views.hard_negative_masks:
                hard.append(slow_shares(mask[index].numpy(), key_where))
    wanted = [*np.mean(query, 0), *np.mean(hard, 0), np.mean(object_)]
    pattern = (
        r"query: (\S+) % of foreground, (\S+) % of background masked; hard negatives: (\S+) % of "
        r"foreground, (\S+) % of background; foreground (\d+) % of the view \(12 views\)"
    )
    told = [float(number) for number in re.fullmatch(pattern, lines[0]).groups()]
    assert told[:4] == pytest.approx([100 * share for share in wanted[:4]], abs=0.051)
    assert told[4] == pytest.approx(100 * wanted[4], abs=0.501)


def test_images_count_alike_whatever_the_batch_and_only_where_they_have_the_side():
    torch.manual_seed(0)
    views = torch.zeros(5, 3, 8, 8)
    mask, where = torch.rand(5, 1, 8, 8) < 0.3, torch.rand(5, 4, 4) < 0.5
    where[1] = False
    whole, parts = Ratios(), Ratios()
    for ratios, sizes in ((whole, [5]), (parts, [1, 4])):
        pieces = (tensor.split(sizes) for tensor in (views, mask, where))
        for view, m, w in zip(*pieces, strict=True):
            ratios.add(MaskedViews(query=view, key=view, query_mask=m, query_foreground=w))
    assert whole.line() == parts.line()
    found = [slow_shares(mask[i].numpy(), where[i].numpy()) for i in range(5)]
    of_object, of_ground = 100 * np.nanmean(found, 0)
    assert whole.line().startswith(
        f"query: {of_object:.1f} % of foreground, {of_ground:.1f} % of background masked; "
    )
    assert "1 views without any, masked at random (5 views)" in whole.line()


def test_views_that_lose_nothing_are_told_so():
    views, told = torch.zeros(2, 3, 8, 8), Ratios()
    told.add(MaskedViews(query=views, key=views))
    assert told.line() == "nothing masked (2 views)"
    where = torch.ones(2, 4, 4, dtype=torch.bool)
    told.add(MaskedViews(query=views, key=views, query_foreground=where))
    assert told.line() == "nothing masked; foreground 100 % of the view (4 views)"


def test_one_share_is_no_range():
    masker = SaliencyMasker(MeanFill(), BoundaryPriorSaliency(), query_ratio=(0.5, 0.5))
    assert "query: 50 % masked" in gallery.describe(masker)


def test_the_seed_alone_decides_picture_and_line(browse, folder, tmp_path):
    results = []
    for seed in (3, 3, 4):
        torch.rand(seed)
        _, lines, *_ = browse(folder, "--seed", seed, config="highpass")
        results.append((lines, (tmp_path / "masks.png").read_bytes()))
    assert results[0] == results[1]
    assert results[0][0] != results[2][0]
    assert results[0][1] != results[2][1]


def test_the_training_data_of_the_config_is_browsed_by_default(browse, folder):
    status, lines, errors, *_ = browse(options=[f"data_root={folder}"])
    assert status == 0, errors
    assert lines[0].endswith("(7 views)")


def test_files_keep_their_order_and_are_used_again_for_more_batches(browse, folder, tmp_path):
    names = []
    for name, colour in (("a", (250, 10, 10)), ("b", (10, 250, 10)), ("c", (10, 10, 250))):
        pixels = np.array(Image.new("RGB", (40, 40), colour))
        pixels[10:30, 10:30] //= 2
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        names.insert(0, f"{name}.png")
    plain = [f"{VIEW}.jitter_prob=0.0", f"{VIEW}.grey_prob=0.0"]
    status, lines, errors, drawn, _ = browse(*names, "--batches", 2, "--rows", 3, options=plain)
    assert status == 0, errors
    assert lines[0].endswith("(6 views)")
    shown = drawn[0][1][0].pictures.mean((1, 2))
    assert shown.argmax(-1).tolist() == [2, 1, 0]


def test_options_of_the_config_reach_the_masker(browse, folder):
    options = [f"{MASKER}.strategy.type=mmsalmask.StrongBlur", f"{MASKER}.grid=14"]
    _, _, _, drawn, seen = browse(folder, options=options)
    assert tuple(seen[0].query_foreground.shape[1:]) == (14, 14)
    view, masked = drawn[0][1][0].pictures[0], drawn[0][1][3].pictures[0]
    hidden = seen[0].query_mask[0, 0].numpy()
    np.testing.assert_allclose(masked[~hidden], view[~hidden], atol=1e-6)
    assert len(np.unique(masked[hidden].round(3), axis=0)) > 3  # blurred, not one mean colour


def test_broken_images_are_skipped_and_counted(browse, folder, tmp_path):
    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8\xff")
    status, lines, errors, _, seen = browse("cut.jpg", folder, "--batches", 2)
    assert status == 0, errors
    assert lines[0].startswith("1 broken images skipped (cut.jpg: ")
    assert [len(views.query) for views in seen] == [7, 7]


def test_what_cannot_be_browsed_is_said_in_a_sentence(browse, folder, tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "text.jpg").write_text("no image")
    (tmp_path / "empty").mkdir()
    (tmp_path / "taken").touch()
    plain = str(ROOT / "configs/demo/mocov2_resnet18_demo.py")
    blind = [f"{MASKER}.{o}" for o in ("localizer=None", "patches=random", "hard_negatives=0")]
    for sentence, images, settings in (
        ("masks nothing: its data_preprocessor has no masker", [folder], dict(config=plain)),
        ("image nowhere.jpg does not exist", ["nowhere.jpg"], {}),
        ("none of the 1 images can be read", ["broken"], {}),
        ("image folder empty is empty", ["empty"], {}),
        ("does not exist", [], dict(options=["data_root=nowhere"])),
        ("masks without a localizer", [folder, "--localizer-map"], dict(options=blind)),
        ("cannot be written", [folder], dict(out="taken/masks.png")),
        ("the picture is a PNG", [folder], dict(out="masks.jpg")),
        ("must be at least 1", [folder, "--rows", 0], {}),
        ("--seed must lie between", [folder, "--seed", -1], {}),
        ("did you mean", [folder], dict(options=[f"{MASKER}.grib=7"])),
        ("is larger than the saliency map", [folder], dict(options=[f"{MASKER}.grid=29"])),
    ):
        status, _, errors, *_ = browse(*images, **settings)
        assert status == 2, sentence
        assert sentence in errors
        assert "Traceback" not in errors
    assert not list(tmp_path.glob("masks*"))


ADIOS = str(ROOT / "configs/demo/adios-mocov2_resnet18_demo.py")
NET = {"model.mask_net.size": 32, "model.mask_net.slots": 3, "model.mask_net.channels": 8}


@pytest.fixture
def adios(tmp_path):
    """A checkpoint of an ADIOS training whose net gives a third of the slots nearly everything."""
    torch.manual_seed(0)
    net = MaskUNet(size=32, slots=3, channels=8)
    net.head.bias.data[1] += 6
    state = {f"mask_net.{name}": value for name, value in net.state_dict().items()}
    torch.save(
        {"state_dict": {**state, "backbone.conv1.weight": torch.zeros(1)}}, tmp_path / "a.pth"
    )
    return net.eval()


def test_adios_shows_the_slots_of_a_checkpoint(browse, folder, adios, tmp_path):
    options = [f"{key}={value}" for key, value in NET.items()]
    given = [folder, "--checkpoint", tmp_path / "a.pth", "--rows", 2, "--batches", 2]
    status, lines, errors, *_ = browse(*given, config=ADIOS, options=options)
    assert status == 0, errors
    areas = re.fullmatch(
        r"mean area of each slot: 1: (\S+) %, 2: (\S+) %, 3: (\S+) % \(14 views\)", lines[0]
    )
    areas = [float(area) for area in areas.groups()]
    assert sum(areas) == pytest.approx(100, abs=0.2)
    assert areas[1] > 90
    picture = np.asarray(Image.open(tmp_path / "masks.png").convert("RGB")) / 255
    # Seven columns, the view and two per slot; the mask of the second slot is all but white.
    wide = (len(picture[0]) / 140 - 0.05) / 7
    column = [picture[60:200, round((0.1 + i * wide) * 140) :][:, :150].mean() for i in (1, 3, 5)]
    assert column[1] > 0.85
    assert max(column[0], column[2]) < 0.15


def test_what_adios_lacks_to_be_browsed_is_said_in_a_sentence(browse, folder, adios, tmp_path):
    options = [f"{key}={value}" for key, value in NET.items()]
    torch.save({"state_dict": {"backbone.conv1.weight": torch.zeros(1)}}, tmp_path / "plain.pth")
    for sentence, images, settings in (
        ("masks by a net that learns where: give a checkpoint", [], dict(config=ADIOS)),
        ("plain.pth holds no mask net", ["--checkpoint", "plain.pth"], dict(config=ADIOS)),
        ("another architecture", ["--checkpoint", "a.pth"], dict(config=ADIOS)),
        ("has no mask net", ["--checkpoint", "a.pth"], {}),
        (
            "masks without a localizer",
            ["--checkpoint", "a.pth", "--localizer-map"],
            dict(config=ADIOS, options=options),
        ),
    ):
        status, _, errors, *_ = browse(folder, *images, **settings)
        assert status == 2, sentence
        assert sentence in errors
        assert "Traceback" not in errors


@pytest.mark.parametrize("to_rgb", [True, False])
@pytest.mark.parametrize("statistics", [{}, dict(mean=[120, 110, 100], std=[60, 50, 70])])
def test_a_photo_is_shown_in_its_own_colours(to_rgb, statistics):
    loaded = torch.randint(0, 256, (2, 3, 8, 9), dtype=torch.uint8)
    masker = SaliencyMasker(MeanFill(), BoundaryPriorSaliency(), grid=2)
    preprocessor = MaskingDataPreprocessor(to_rgb=to_rgb, **statistics)
    preprocessor.masker = masker
    views = preprocessor({"inputs": loaded, "data_samples": None})["inputs"]
    shown = gallery.to_photos(views, preprocessor)
    np.testing.assert_allclose(shown, loaded.flip(1).permute(0, 2, 3, 1) / 255, atol=1e-5)


def test_the_foreground_column_leaves_the_foreground_as_it_is():
    photos = np.zeros((1, 5, 6, 3))
    shown = gallery.cover_background(photos, torch.tensor([[[True, False], [False, False]]]))
    rows, columns = np.nonzero(shown[0].max(-1) == 0)
    assert set(rows) == {0, 1, 2}  # pixel y is of patch row ⌊y·2/5⌋
    assert set(columns) == {0, 1, 2}
