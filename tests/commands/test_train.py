"""What tools/train.py does with bad input: one sentence, status 2, and nothing lost."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from running import Outcome, run_tool

from mmsalmask.algorithms import MaskedMoCo
from mmsalmask.config import config_file, load_config
from mmsalmask.engine import out_of_memory
from mmsalmask.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "configs" / "demo" / "mocov2-salmask-mean_resnet18_demo.py"
TINY = f"""
_base_ = {str(DEMO)!r}
model = dict(
    queue_len=10,
    feat_dim=8,
    backbone=dict(base_channels=8, stem_channels=8),
    neck=dict(in_channels=64, hid_channels=8, out_channels=8))
train_dataloader = dict(batch_size=4, num_workers=0, persistent_workers=False)
epochs = 1
train_cfg = dict(max_epochs=epochs)
# The schedule of twelve epochs, however many are run.
param_scheduler = [
    dict(type='CosineAnnealingLR', T_max=12, end=12, by_epoch=True, convert_to_iter_based=True)
]
default_hooks = dict(checkpoint=dict(interval=1))
custom_hooks = [
    dict(type='mmsalmask.TrainingStatisticsHook', interval=10),
    dict(type='mmsalmask.BrokenImagesHook', limit=0.01),
]
"""
PIPELINE = "train_dataloader.dataset.pipeline"
AUGMENT = "model.data_preprocessor.augment"
MASKER = "model.data_preprocessor.masker"
SIZE = f"{AUGMENT}.view.size"


def draw(folder: Path, count: int, broken: tuple[int, ...] = ()) -> Path:
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for i in range(count):
        path = folder / f"{i:04d}.png"
        Image.fromarray(random.integers(0, 256, (32, 40, 3), dtype=np.uint8)).save(path)
        if i in broken:
            path.write_bytes(path.read_bytes()[:60])
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with the config, eight images, and the work directory of a run of one epoch."""
    folder = tmp_path_factory.mktemp("train")
    (folder / "tiny.py").write_text(TINY)
    draw(folder / "images", 8)
    assert run(folder, work="done").status == 0
    return folder


def arguments(place: Path, work: str, *more: str, config="tiny.py", **options) -> list[str]:
    settings = {"data_root": place / "images", SIZE: 32, **options}
    return [
        *(str(place / config), "--work-dir", str(place / work), *more, "--cfg-options"),
        *(f"{key}={value}" for key, value in settings.items() if value is not None),
    ]


def run(place: Path, *more: str, work: str, config: str = "tiny.py", **options) -> Outcome:
    """Run the tool in this process, whose imports are done."""
    return run_tool("train.py", *arguments(place, work, *more, config=config, **options))


def run_apart(place: Path, *more: str, work: str, **options) -> Outcome:
    """Run the tool as a user does, in a process of its own."""
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "tools" / "train.py"),
            *arguments(place, work, *more, **options),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def contents(folder: Path) -> dict[str, bytes]:
    """What must not be lost: checkpoints, and which is the last."""
    return {p.name: p.read_bytes() for p in (*folder.glob("*.pth"), *folder.glob("last_*"))}


# ------------------------------------------------------------------------------------ mistakes


MISTAKES = {
    "missing folder": ({"data_root": "no/such/folder"}, "image folder no/such/folder does not"),
    "empty folder": ({"data_root": "{place}/empty"}, "image folder {place}/empty is empty"),
    "no images": (
        {"data_root": "{place}/texts"},
        "image folder {place}/texts has no images: looked for .",
    ),
    "misspelt option": (
        {"model.queue_length": 5},
        "no config key 'model.queue_length': did you mean 'model.queue_len'?",
    ),
    "helper variable": (
        {"epochs": 5},
        "'epochs' was read while the config was parsed, overriding it has no effect: "
        "override train_cfg.max_epochs",
    ),
    "unknown type": (
        {f"{MASKER}.strategy.type": "mmsalmask.MeanFil"},
        f"{MASKER}.strategy: 'mmsalmask.MeanFil' is not a registered part: "
        "did you mean 'mmsalmask.MeanFill'?",
    ),
    "coarse saliency": (
        {f"{MASKER}.grid": 30},
        "grid 30x30 is larger than the saliency map 28x28: use a smaller",
    ),
    "ratio above one": (
        {f"{MASKER}.query_ratio": "(0.5,1.5)"},
        "query_ratio must be a range (low, high) with 0 <= low <= high <= 1, got (0.5, 1.5)",
    ),
    "reversed ratio": (
        {f"{MASKER}.hard_negative_ratio": "(0.7,0.4)"},
        "hard_negative_ratio must be a range (low, high) with 0 <= low <= high <= 1, got (0.7,",
    ),
    "no localizer": (
        {f"{MASKER}.localizer": "None"},
        "patches='balanced' needs a localizer: give one, or set patches='random'",
    ),
    "hard negatives without a localizer": (
        {f"{MASKER}.localizer": "None", f"{MASKER}.patches": "random"},
        "a hard negative hides the object, which needs a localizer: give one, or set",
    ),
    "focal masks of a mean fill": (
        {f"{MASKER}.strategy.focal_prob": 0.2},
        "MeanFill masks patches that all channels share; focal and channel-wise masks",
    ),
    "channel-wise masks of a blur": (
        {
            f"{MASKER}.strategy.type": "mmsalmask.StrongBlur",
            f"{MASKER}.strategy.channel_prob": 0.7,
        },
        "StrongBlur masks patches that all channels share; focal and channel-wise masks",
    ),
    "penalty without hard negatives": (
        {f"{MASKER}.hard_negatives": 0, "model.head.penalty": 1.0},
        "model.head.penalty has no effect, since no hard negatives are made: leave it out, or set "
        f"{MASKER}.hard_negatives to 1 or more",
    ),
    "penalty without a masker": (
        {MASKER: "None", "model.head.penalty": 1.0},
        "model.head.penalty has no effect, since no hard negatives are made",
    ),
    "ratio without hard negatives": (
        {f"{MASKER}.hard_negatives": 0, f"{MASKER}.hard_negative_ratio": "(0.1,0.2)"},
        f"{MASKER}.hard_negative_ratio has no effect, since no hard negatives are made",
    ),
    "small image": ({SIZE: 5}, "an image of 5x5 px is smaller than the 7x7 patch grid"),
    "fewer images than a batch": (
        {"train_dataloader.batch_size": 5000},
        "the 8 training images do not fill one batch of 5000 in each process: set a smaller",
    ),
    "persistent workers": (
        {"train_dataloader.persistent_workers": True},
        "train_dataloader.persistent_workers needs workers to persist",
    ),
    "loss scaling": (
        {"optim_wrapper.type": "AmpOptimWrapper"},
        "optim_wrapper.type is AmpOptimWrapper, which needs a GPU",
    ),
    "another architecture": (
        {"load_from": "{place}/done/epoch_1.pth", "model.backbone.depth": 34},
        "{place}/done/epoch_1.pth is a checkpoint of another architecture",
    ),
    "missing checkpoint": (
        {"load_from": "{place}/no.pth"},
        "there is no checkpoint {place}/no.pth",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_sentence_and_nothing_is_lost(place, mistake):
    (place / "empty").mkdir(exist_ok=True)
    (place / "texts").mkdir(exist_ok=True)
    (place / "texts" / "notes.txt").touch()
    before = contents(place / "done")
    options, sentence = MISTAKES[mistake]
    options = {key: str(value).format(place=place) for key, value in options.items()}
    # A run that is resumed has something to lose; one with a start of its own is a new one.
    more, work = ([], "fresh") if "load_from" in options else (["--resume"], "done")
    told = run(place, *more, work=work, **{"train_cfg.max_epochs": 2}, **options).sentence()
    assert told.startswith(sentence.format(place=place))
    assert len(before) == 2
    assert contents(place / "done") == before


@pytest.mark.parametrize(
    ("config", "options", "sentence"),
    [
        (
            "byol-salmask-highpass_resnet18_demo",
            {f"{MASKER}.hard_negatives": 1},
            "model: BYOL takes two views, the hard negatives that the masker makes would be "
            f"ignored: set {MASKER}.hard_negatives=0",
        ),
        (
            "adios-mocov2_resnet18_demo",
            {
                f"{MASKER}.type": "mmsalmask.SaliencyMasker",
                f"{MASKER}.strategy.type": "mmsalmask.MeanFill",
                f"{MASKER}.localizer.type": "mmsalmask.BoundaryPriorSaliency",
            },
            "ADIOS learns where to mask, a masker (with its frozen localizer) would mask the "
            "views before it sees them: remove model.data_preprocessor.masker",
        ),
        (
            "mocov2_resnet18_demo",
            {f"{MASKER}.grid": 14},
            f"{MASKER} has no 'type': take a config that has a masker, or write type='mmsalmask.",
        ),
    ],
)
def test_masks_that_an_algorithm_has_no_use_for_are_refused(place, config, options, sentence):
    file = DEMO.with_name(f"{config}.py")
    assert run(place, work="refused", config=file, **options).sentence().startswith(sentence)
    assert not list((place / "refused").rglob("*.pth"))


@pytest.mark.parametrize(("launcher", "variable"), [("pytorch", "RANK"), ("slurm", "SLURM_PROCID")])
def test_a_launcher_that_did_not_start_the_process_is_refused(
    place, monkeypatch, launcher, variable
):
    monkeypatch.delenv(variable, raising=False)
    told = run(place, "--launcher", launcher, work="launched").sentence()
    assert told.startswith(f"--launcher {launcher}: there is no {variable} in the environment")
    assert "start it by tools/" in told


def unfolded(told: str) -> str:
    """The terminal breaks long lines at spaces."""
    return " ".join(told.split())


def test_training_tells_what_it_skips_and_sizes_that_do_not_fit(place):
    """At the same time as what it does not: the images are fine for views of 32 pixels."""
    shutil.copytree(place / "images", place / "mixed")
    for name in ("a.heic", "b.heic", "c.txt"):
        (place / "mixed" / name).touch()
    mixed = place / "mixed"
    found = f"warning: {mixed}: found 8 images, uses 8, skips 2 .heic, 1 .txt"
    patches = "a patch of the 7x7 grid has less than 2 pixels a side in views of 12x12"
    small = (
        "the images are far smaller than the views of 80x80: of 8 looked at, half have no more "
        "than 32 pixels on the shorter side"
    )
    for size, sentences in ((32, {found}), (12, {found, patches}), (80, {found, small})):
        done = run(place, work=f"sizes_{size}", **{"data_root": mixed, SIZE: size})
        assert done.status == 0, done.err
        lines = unfolded(done.out + done.err)
        assert {told for told in (found, patches, small) if told in lines} == sentences


def test_a_misspelt_key_of_a_config_is_named_with_the_right_one(place):
    (place / "misspelt.py").write_text(TINY.replace("queue_len", "queue_lenght"))
    told = run(place, work="misspelt", config="misspelt.py").sentence()
    assert told == "model: MaskedMoCo takes no 'queue_lenght': did you mean 'queue_len'?"


def test_a_mistake_ends_a_real_process_in_one_sentence(place):
    before = contents(place / "done")
    outcome = run_apart(place, "--resume", work="done", data_root="no/such/folder")
    assert outcome.sentence().startswith("image folder no/such/folder does not exist")
    assert outcome.err.count("\n") == 1
    assert contents(place / "done") == before


# ------------------------------------------------------------------------------------ resuming


def test_resuming_goes_on_where_the_run_stopped(place):
    """Two epochs at once, and two with a stop between, step through the same numbers."""
    options = {"train_cfg.max_epochs": 2}
    shutil.copytree(place / "done", place / "resumed")
    (place / "resumed" / "last_checkpoint").write_text(str(place / "resumed" / "epoch_1.pth"))
    assert run(place, "--resume", work="resumed", **options).status == 0
    assert run(place, work="straight", **options).status == 0
    resumed, straight = (
        torch.load(place / work / "epoch_2.pth", weights_only=False)
        for work in ("resumed", "straight")
    )
    for state in (resumed, straight):
        assert (state["meta"]["epoch"], state["meta"]["iter"]) == (2, 4)
        assert state["state_dict"]["queue_pointer"] == 16 % 10
    (lr,) = (group["lr"] for group in straight["optimizer"]["param_groups"])
    assert resumed["optimizer"]["param_groups"][0]["lr"] == pytest.approx(lr)
    first = torch.load(place / "done" / "epoch_1.pth", weights_only=False)
    assert first["optimizer"]["param_groups"][0]["lr"] > lr
    steps = [s["message_hub"]["log_scalars"]["train/lr"].data[0] for s in (resumed, straight)]
    assert steps[0] == pytest.approx(steps[1])
    # Rows 8 and 9 and 0 to 5 are new, 6 and 7 the first epoch's.
    queue = first["state_dict"]["queue"]
    same = (resumed["state_dict"]["queue"] == queue).all(1)
    assert same.tolist() == [False] * 6 + [True] * 2 + [False] * 2
    text = "".join(path.read_text() for path in (place / "resumed").rglob("*.log"))
    assert "Epoch(train) [2][2/2]" in text
    assert text.count("Epoch(train) [1][2/2]") == 1


def test_what_differs_from_the_checkpoint_is_told_before_training(place):
    shutil.copytree(place / "done", place / "differs")
    draw(place / "more", 12)
    before = {"data_root": place / "images", "lr": 0.0075, "temperature": 0.2}
    now = {"data_root": place / "more", "lr": 0.5, "temperature": 0.1}
    outcome = run(
        place,
        "--resume",
        work="differs",
        **{
            "data_root": now["data_root"],
            "optim_wrapper.optimizer.lr": now["lr"],
            "model.head.temperature": now["temperature"],
            "train_cfg.max_epochs": 2,
        },
    )
    assert outcome.status == 0
    text = max((place / "differs").glob("*/*.log")).read_text()
    told, training = text.partition("Epoch(train) [2]")[::2]
    assert training
    (sentence,) = [
        line for line in told.splitlines() if "the config differs from the checkpoint" in line
    ]
    for clause in (
        f"model.head.temperature was {before['temperature']} and is {now['temperature']}",
        f"train_dataloader.dataset.data_root was '{before['data_root']}' and is '",
        "train_cfg.max_epochs was 1 and is 2",
        f"optim_wrapper.optimizer.lr was {before['lr']} and is {now['lr']}",
        "the data had 8 images and has 12",
    ):
        assert clause in sentence
    assert "another optimizer or schedule than the checkpoint" in told


def test_resuming_a_finished_run_says_so(place):
    before = contents(place / "done")
    outcome = run(place, "--resume", work="done")
    assert outcome.status == 0
    assert "is of a finished run, 1 of 1 epochs are trained: to train longer, set" in unfolded(
        outcome.out
    )
    assert contents(place / "done") == before


def test_a_run_is_never_begun_anew_over_another(place):
    before = contents(place / "done")
    told = run(place, work="done").sentence()
    assert told.startswith(f"{place / 'done'} holds a run already, up to epoch_1.pth: resume it")
    assert contents(place / "done") == before


def test_resuming_without_a_checkpoint_is_refused(place):
    told = run(place, "--resume", work="nothing").sentence()
    assert told.startswith(f"--resume: there is no checkpoint in {place / 'nothing'}: check")
    told = run(place, "--resume", str(place / "no.pth"), work="nothing").sentence()
    assert told == f"--resume: checkpoint {place / 'no.pth'} does not exist"


def test_resuming_another_architecture_is_refused(place):
    before = contents(place / "done")
    told = run(place, "--resume", work="done", **{"model.backbone.depth": 34}).sentence()
    assert told.startswith(f"{place / 'done' / 'epoch_1.pth'} is a checkpoint of another archit")
    told = run(place, "--resume", work="done", **{"model.queue_len": 12}).sentence()
    assert "queue (10, 8) instead of (12, 8)" in told
    assert contents(place / "done") == before


# ------------------------------------------------------------------------------------ the data


def test_a_broken_image_is_skipped_counted_and_reported_at_the_end(place):
    draw(place / "one_broken", 12, broken=(3,))
    options = {"data_root": place / "one_broken", "custom_hooks.1.limit": 0.1}
    outcome = run(place, work="one_broken_run", **options)
    assert (outcome.status, outcome.errors) == (0, [])
    assert "1 of 12 images could not be read and were replaced by others" in outcome.out
    assert (place / "one_broken_run" / "epoch_1.pth").is_file()


def test_too_many_broken_images_stop_the_run_with_the_list(place):
    draw(place / "two_broken", 12, broken=(3, 7))
    before = contents(place / "done")
    options = {"data_root": place / "two_broken", "train_cfg.max_epochs": 2}
    outcome = run(place, "--resume", work="done", **options)
    assert outcome.sentence().startswith("2 of 12 images cannot be read, more than the ")
    for name in ("0003.png", "0007.png"):
        assert f"  {place / 'two_broken' / name}: " in outcome.err
    assert contents(place / "done") == before


def test_an_error_in_a_loader_process_is_the_same_one_sentence(place):
    draw(place / "all_broken", 8, broken=tuple(range(8)))
    outcome = run(
        place,
        work="workers",
        **{"data_root": place / "all_broken", "train_dataloader.num_workers": 1},
    )
    assert outcome.sentence().startswith("image ")
    assert "cannot be read: repair the folder" in outcome.sentence()
    assert "worker" not in outcome.err


# ------------------------------------------------------------------------------------ a full disk


def test_a_full_disk_ends_in_one_sentence_with_the_last_checkpoint_kept(place):
    disk = place / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False).returncode:
        pytest.skip("no right to mount a small disk here")
    try:
        shutil.copytree(place / "done", disk / "work")
        last = disk / "work" / "epoch_1.pth"
        (disk / "work" / "last_checkpoint").write_text(str(last))
        before = contents(disk / "work")
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        (disk / "others.bin").write_bytes(bytes(free - last.stat().st_size // 2))
        more = {"train_cfg.max_epochs": 2}
        outcome = run_apart(place, "--resume", work="disk/work", **more)
        where = disk / "work" / "epoch_2.pth"
        assert outcome.sentence().startswith(f"no space left on the disk that holds {where}; make")
        assert contents(disk / "work") == before
        (disk / "others.bin").unlink()
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        (disk / "others.bin").write_bytes(bytes(free))  # not a byte is left: no log line either
        outcome = run(place, "--resume", work="disk/work", **more)
        assert outcome.sentence().startswith("no space left on the disk that holds ")
        assert contents(disk / "work") == before
        (disk / "others.bin").unlink()
        assert run(place, "--resume", work="disk/work", **more).status == 0
        assert set(contents(disk / "work")) == {*before, "epoch_2.pth"}
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


# --------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize(("gpu", "advice"), [(False, "try 4"), (True, "6 should fit")])
def test_a_batch_that_does_not_fit_is_told_with_one_that_does(place, monkeypatch, gpu, advice):
    """On a GPU by steps of the runner's own model and images, whose peaks are made up here."""

    def short(*_, **__):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    steps = []

    def peak(step):
        step()
        steps.append(step)
        return 10.0 * len(steps)  # of two images, then of four

    monkeypatch.setattr(MaskedMoCo, "train_step", short)
    monkeypatch.setattr(out_of_memory, "_cuda_peak", peak)
    monkeypatch.setattr(out_of_memory, "_cuda_room", lambda: 34 / 0.9)
    monkeypatch.setattr(out_of_memory, "_on_one_gpu", lambda: gpu)
    monkeypatch.setattr(out_of_memory, "_memory", lambda: "the memory")
    told = run(place, work=f"big-{gpu}", **{"train_dataloader.batch_size": 8}).sentence()
    assert told.startswith(
        f"a batch of 8 images does not fit into the memory: set the batch size lower ({advice})"
    )
    assert len(steps) == 2 * gpu


@pytest.mark.gpu
def test_a_batch_that_a_gpu_cannot_hold_is_told_with_one_that_fits(place):
    torch.cuda.set_per_process_memory_fraction(0.05)
    try:
        told = run(place, work="big-real", **{"train_dataloader.batch_size": 8, SIZE: 3072})
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert told.sentence().startswith("a batch of 8 images does not fit into the ")


# ------------------------------------------------------------------------------------ precision


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bits_train_on_any_device(place, dtype):
    done = run(place, "--amp", dtype, work=dtype)
    assert done.status == 0
    assert "most emulate 16-bit arithmetic" in done.out + done.err
    state = torch.load(place / dtype / "epoch_1.pth", weights_only=False)
    assert {value.dtype for value in state["state_dict"].values()} == {torch.float32, torch.int64}
    for value in state["state_dict"].values():
        assert value.isfinite().all()
    assert ("loss_scaler" in state["optimizer"]) == (dtype == "float16")


def test_another_precision_replaces_the_loss_scaling_of_the_config(place):
    (place / "scaled.py").write_text(
        TINY + "optim_wrapper = dict(type='AmpOptimWrapper', loss_scale=512., dtype='float16')\n"
    )
    assert run(place, "--amp", "bfloat16", work="scaled", config="scaled.py").status == 0


# ------------------------------------------------------------------------------------ options


def test_an_option_for_a_variable_that_was_read_already_names_where_it_went():
    def told(**options) -> str:
        with pytest.raises(InputError) as caught:
            load_config(str(DEMO), options)
        return str(caught.value)

    assert told(**{"masker.grid": 14}).endswith(f"override {MASKER}.grid instead")
    assert told(**{"masker.strategy.type": "x"}).endswith(
        f"override {MASKER}.strategy.type instead"
    )
    localizer = f"override {MASKER}.localizer.map_size instead"
    assert told(**{"boundary_prior.map_size": 14}).endswith(localizer)


def test_an_option_for_a_list_that_was_read_already_names_where_it_went(tmp_path):
    bases = [str(DEMO), str(ROOT / "configs" / "_base_" / "datasets" / "mocov2_views.py")]
    dataset = "train_dataloader = dict(dataset=dict(pipeline=_base_.train_pipeline))"
    (tmp_path / "own.py").write_text(f"_base_ = {bases!r}\n{dataset}\nsize = 224\n")

    def told(**options) -> str:
        with pytest.raises(InputError) as caught:
            load_config(str(tmp_path / "own.py"), options)
        return str(caught.value)

    scale = f"{PIPELINE}.1.transforms.0.0.scale"
    assert scale in told(size=96)
    assert told(**{"train_pipeline.0.type": "x"}).endswith(f"override {PIPELINE}.0.type instead")
    assert told(**{"view_pipeline.0.scale": 96}).endswith(f"override {scale} instead")


@pytest.mark.parametrize(
    ("former", "today"),
    [
        (
            "moco/mocov2-salmask-highpass_resnet50_4xb32-device-coslr-200e_in100.py",
            "moco/mocov2-salmask-highpass_resnet50_4xb32-coslr-200e_in100.py",
        ),
        (
            "demo/byol-salmask-highpass_resnet18-device_demo.py",
            "demo/byol-salmask-highpass_resnet18_demo.py",
        ),
    ],
)
def test_the_former_name_of_a_recipe_with_device_views_is_that_of_today(former, today):
    configs = ROOT / "configs"
    assert load_config(str(configs / former)).to_dict() == load_config(configs / today).to_dict()
    assert load_config(f"mmsalmask::{former}").filename == str(config_file(f"mmsalmask::{today}"))
    assert not (configs / former).exists()


def test_other_names_with_that_word_are_not_taken_for_another_file(tmp_path):
    (tmp_path / "mine.py").write_text("_base_ = []\n")
    with pytest.raises(InputError, match=r"mine-device\.py' is not there"):
        load_config(str(tmp_path / "mine-device.py"))


def test_a_variable_that_nobody_reads_may_be_overridden(tmp_path):
    (tmp_path / "own.py").write_text("_base_ = " + repr(str(DEMO)) + "\nmine = dict(a=1, b=12)\n")
    options = {"mine.a": 2, "mine.b": 13}
    assert load_config(str(tmp_path / "own.py"), options).mine.to_dict() == {"a": 2, "b": 13}


@pytest.mark.parametrize("old", ["data/coco/", "data/coco"])
def test_data_root_is_carried_to_the_paths_below_it(tmp_path, old):
    (tmp_path / "own.py").write_text(
        f"data_root = {old!r}\n"
        "base = 'data/coco'\n"
        "train_dataloader = dict(dataset=dict(type='CocoDataset', data_root=data_root,\n"
        "    ann_file=base + '/annotations/train.json', data_prefix=dict(img='train/')))\n"
        "val_evaluator = dict(type='CocoMetric', ann_file=[base + '/a.json', base + '2/a.json'])\n"
    )
    cfg = load_config(str(tmp_path / "own.py"), {"data_root": "/photos/"})
    dataset = cfg.train_dataloader.dataset
    assert dataset.data_root == "/photos/"
    assert dataset.ann_file == "/photos/annotations/train.json"
    assert dataset.data_prefix.img == "train/"
    assert cfg.val_evaluator.ann_file == ["/photos/a.json", "data/coco2/a.json"]


def test_what_fails_in_a_fill_of_ones_own_is_told_with_its_line(place):
    (place / "fill_of_mine.py").write_text(
        "from mmsalmask.masking import Strategy\n\n"
        "class FillOfMine(Strategy):\n"
        "    def fill(self, view, generator):\n"
        "        return view.seen + view.seen.new_ones(7)\n"
    )
    (place / "mine.py").write_text(
        "_base_ = 'tiny.py'\n"
        "custom_imports = dict(imports=['fill_of_mine'])\n"
        "fill = dict(_delete_=True, type='mmsalmask.FillOfMine')\n"
        "model = dict(data_preprocessor=dict(masker=dict(strategy=fill)))\n"
    )
    done = run(place, work="mine", config="mine.py")
    assert f"at {place}/fill_of_mine.py:5 in fill): compare the sizes" in done.sentence()
    (log,) = (place / "mine").glob("*/*.log")
    assert "Traceback" in log.read_text()
