"""Look at the datasets on disk: what is complete, what is missing, and the commands that fetch it.

    mmsalmask data                      # everything below data/
    mmsalmask data coco voc --data-root /datasets
    mmsalmask data pack FOLDER SHARDS   # into tar shards; pack --help tells more
    mmsalmask data stats FOLDER         # mean and std; stats --help tells more

Looking reads only: nothing is downloaded, moved or deleted. Where a dataset lies elsewhere, link
it: ln -s /datasets/coco data/coco. The exit status is 1 if a dataset that was asked for is
incomplete.
"""

import argparse
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from mmsalmask.cli import Parser, print_table, report_errors
from mmsalmask.commands import pack, stats
from mmsalmask.data import ImageNet100
from mmsalmask.errors import InputError, some_names

VOC = "http://host.robots.ox.ac.uk/pascal/VOC"
COCO = "http://images.cocodataset.org"
FLOWERS = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102"
KITTI = "https://s3.eu-central-1.amazonaws.com/avg-kitti"


class Finding(NamedTuple):
    """What was looked for, how much of it is there, and of how much (0: any number will do)."""

    what: str
    found: int
    wanted: int
    problem: str = ""

    @property
    def complete(self) -> bool:
        return not self.problem and self.found > 0


Check = Callable[[Path], Iterator[Finding]]


class Dataset(NamedTuple):
    """Where a dataset lies below the data root, what uses it, and how one gets it."""

    folder: str
    used_by: str
    check: Check
    commands: str


def count(folder: Path, pattern: str, wanted: int) -> Finding:
    """Files below a folder; fewer than the published set has are told, and are enough."""
    found = sum(1 for _ in folder.glob(pattern))
    return Finding(pattern, found, wanted, "" if found else "none there")


def listed(folder: Path, names: str, wanted: int, *patterns: str) -> Finding:
    """Files of every name in a list; ``patterns`` hold the place of the name as ``{}``."""
    file = folder / names
    if not file.is_file():
        return Finding(names, 0, wanted, "the list is missing")
    stems = [line.split()[0] for line in file.read_text().splitlines() if line.strip()]
    files = [pattern.format(stem) for stem in stems for pattern in patterns]
    missing = [name for name in files if not (folder / name).exists()]
    problem = f"{len(missing)} files are missing: {some_names(missing)}" if missing else ""
    return Finding(names, len(stems), wanted, problem or ("" if stems else "the list is empty"))


# ------------------------------------------------------------------------------------- the datasets


def imagenet(folder: Path) -> Iterator[Finding]:
    ids = ImageNet100.METAINFO["classes"]
    for split, wanted in (("train", 0), ("val", 5000)):
        missing = [name for name in ids if not (folder / split / name).is_dir()]
        images = sum(1 for name in ids for _ in (folder / split / name).glob("*.*"))
        problem = f"no folder for {len(missing)} of 100 classes: {some_names(missing)}"
        yield Finding(f"{split}/<the 100 ids>/*", images, wanted, problem if missing else "")


def caltech101(folder: Path) -> Iterator[Finding]:
    classes = sum(1 for path in folder.glob("*/") if any(path.glob("*.jpg")))
    yield Finding("<class>/", classes, 102, "" if classes else "no folders with images")
    yield count(folder, "*/*.jpg", 9144)


def flowers102(folder: Path) -> Iterator[Finding]:
    yield count(folder, "jpg/*.jpg", 8189)
    yield count(folder, "setid.mat", 1)
    yield count(folder, "imagelabels.mat", 1)


def voc(folder: Path) -> Iterator[Finding]:
    for year, split, wanted in ((2007, "trainval", 5011), (2012, "trainval", 11540)):
        yield voc_list(folder, year, split, wanted)
    yield voc_list(folder, 2007, "test", 4952)


def voc_list(folder: Path, year: int, split: str, wanted: int) -> Finding:
    home = f"VOC{year}"
    files = (f"{home}/JPEGImages/{{}}.jpg", f"{home}/Annotations/{{}}.xml")
    return listed(folder, f"{home}/ImageSets/Main/{split}.txt", wanted, *files)


def vocaug(folder: Path) -> Iterator[Finding]:
    lists, images = "VOC2012/ImageSets/Segmentation", "VOC2012/JPEGImages/{}.jpg"
    masks, more = "VOC2012/SegmentationClass/{}.png", "VOC2012/SegmentationClassAug/{}.png"
    yield listed(folder, f"{lists}/train.txt", 1464, images, masks)
    yield listed(folder, f"{lists}/aug.txt", 9118, images, more)
    yield listed(folder, f"{lists}/val.txt", 1449, images, masks)


def coco(folder: Path) -> Iterator[Finding]:
    for split, wanted in (("train", 118287), ("val", 5000)):
        yield count(folder, f"{split}2017/*.jpg", wanted)
        yield count(folder, f"annotations/instances_{split}2017.json", 1)


def cityscapes(folder: Path) -> Iterator[Finding]:
    for split, wanted in (("train", 2975), ("val", 500)):
        yield count(folder, f"leftImg8bit/{split}/*/*_leftImg8bit.png", wanted)
        yield count(folder, f"gtFine/{split}/*/*_gtFine_labelTrainIds.png", wanted)


def kitti(folder: Path) -> Iterator[Finding]:
    drives = sorted(folder.glob("????_??_??/*_drive_*_sync"))  # depth/ has drives of its own
    files = {drive.parent / name for drive in drives for name in CALIBRATION}
    missing = sorted(str(file.relative_to(folder)) for file in files if not file.is_file())
    problem = f"there is no {some_names(missing)}" if missing else ""
    yield Finding("<date>/<date>_drive_<n>_sync", len(drives), 0, "" if drives else "none there")
    yield Finding("<date>/calib_{cam,velo}_to_cam.txt", len(files) - len(missing), 10, problem)
    yield count(folder, "*/*_drive_*_sync/image_0[23]/data/*.*", 0)
    yield count(folder, "*/*_drive_*_sync/velodyne_points/data/*.bin", 0)


CALIBRATION = ("calib_cam_to_cam.txt", "calib_velo_to_cam.txt")
DATASETS = {
    "imagenet": Dataset(
        "imagenet",
        "pretraining and linear evaluation on ImageNet-100",
        imagenet,
        """
# Needs an account at image-net.org; ILSVRC2012_devkit_t12.tar.gz, ILSVRC2012_img_train.tar and
# ILSVRC2012_img_val.tar have to lie in {folder}. Unpacks them, and sorts the validation images.
python -c "import sys; from torchvision.datasets import ImageNet as I; \
I(sys.argv[1], 'train'); I(sys.argv[1], 'val')" {folder}
""",
    ),
    "caltech101": Dataset(
        "caltech101",
        "linear and kNN evaluation",
        caltech101,
        """
curl -LO https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip
unzip caltech-101.zip
mkdir -p {folder}
tar -xzf caltech-101/101_ObjectCategories.tar.gz -C {folder} --strip-components 1
""",
    ),
    "flowers102": Dataset(
        "flowers102",
        "linear evaluation",
        flowers102,
        f"""
mkdir -p {{folder}}
curl -L {FLOWERS}/102flowers.tgz | tar -xz -C {{folder}}
curl -L {FLOWERS}/setid.mat -o {{folder}}/setid.mat
curl -L {FLOWERS}/imagelabels.mat -o {{folder}}/imagelabels.mat
""",
    ),
    "voc": Dataset(
        "VOCdevkit",
        "detection on VOC07+12",
        voc,
        f"""
# the archives hold VOCdevkit/…
mkdir -p {{root}}
curl -L {VOC}/voc2007/VOCtrainval_06-Nov-2007.tar | tar -x -C {{root}}
curl -L {VOC}/voc2007/VOCtest_06-Nov-2007.tar | tar -x -C {{root}}
curl -L {VOC}/voc2012/VOCtrainval_11-May-2012.tar | tar -x -C {{root}}
""",
    ),
    "vocaug": Dataset(
        "VOCdevkit",
        "segmentation on VOC12aug",
        vocaug,
        f"""
mkdir -p {{root}}
curl -L {VOC}/voc2012/VOCtrainval_11-May-2012.tar | tar -x -C {{root}}
curl -L http://www.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/\
benchmark.tgz | tar -xz
mv benchmark_RELEASE {{folder}}/VOCaug
python $(python -c 'import mmseg; print(mmseg.__path__[0])' | tail -n 1)/\
.mim/tools/dataset_converters/voc_aug.py {{folder}} {{folder}}/VOCaug
""",
    ),
    "coco": Dataset(
        "coco",
        "detection and instance segmentation on COCO",
        coco,
        f"""
mkdir -p {{folder}}
for f in zips/train2017 zips/val2017 annotations/annotations_trainval2017; do
    curl -LO {COCO}/$f.zip && unzip -q $(basename $f).zip -d {{folder}}
done
""",
    ),
    "cityscapes": Dataset(
        "cityscapes",
        "segmentation on Cityscapes",
        cityscapes,
        """
# Needs an account at cityscapes-dataset.com.
pip install cityscapesscripts
mkdir -p {folder}
csDownload -d {folder} leftImg8bit_trainvaltest.zip gtFine_trainvaltest.zip
(cd {folder} && unzip -q -n leftImg8bit_trainvaltest.zip && unzip -q -n gtFine_trainvaltest.zip)
CITYSCAPES_DATASET={folder} csCreateTrainIdLabelImgs
""",
    ),
    "kitti": Dataset(
        "kitti_raw",
        "monocular depth",
        kitti,
        f"""
mkdir -p {{folder}} && cd {{folder}}
for date in 2011_09_26 2011_09_28 2011_09_29 2011_09_30 2011_10_03; do
    curl -LO {KITTI}/raw_data/${{{{date}}}}_calib.zip && unzip -n ${{{{date}}}}_calib.zip
done
# and every drive, for instance:
curl -LO {KITTI}/raw_data/2011_09_26_drive_0001/2011_09_26_drive_0001_sync.zip
unzip -n 2011_09_26_drive_0001_sync.zip
""",
    ),
}


# --------------------------------------------------------------------------------------- the report


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("datasets", nargs="*", metavar="DATASET", help=", ".join(DATASETS))
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="(%(default)s)")
    options = parser.parse_args(words)
    if unknown := [name for name in options.datasets if name not in DATASETS]:
        parser.error(f"no dataset {unknown[0]!r}; there are {', '.join(DATASETS)}")
    return options


def show(name: str, findings: list[Finding]) -> None:
    dataset = DATASETS[name]
    table = Table("what", "found", "published set", "", title=f"{name}: {dataset.used_by}")
    for finding in findings:
        wanted = f"{finding.wanted:,}" if finding.wanted else ""
        told = finding.problem or ("smaller" if finding.found < finding.wanted else "complete")
        table.add_row(finding.what, f"{finding.found:,}", wanted, told)
    print_table(table)


def prepare_data(datasets: Sequence[str] = (), data_root: str | Path = "data") -> list[str]:
    """Look at datasets on disk, and print what is there and how the rest is fetched.

    Args:
        datasets: names of :data:`DATASETS`; none for all.
        data_root: the folder that they lie in.

    Returns:
        The names of those that are incomplete.

    Raises:
        InputError: there is no such folder, unless it is the default one.

    Example::

        assert "coco" not in prepare_data(["coco"], "/datasets")
    """
    console, root = Console(), Path(data_root)
    if not root.is_dir() and root != Path("data"):
        raise InputError(f"there is no folder {root}: make it, or name another --data-root")
    incomplete = []
    for name in datasets or DATASETS:
        folder = root / DATASETS[name].folder
        with console.status(f"looking at {folder}"):
            findings = list(DATASETS[name].check(folder)) if folder.is_dir() else []
        if folder.is_dir():
            show(name, findings)
        else:
            console.print(f"{name}: there is no {folder}", markup=False, highlight=False)
        if not findings or not all(finding.complete for finding in findings):
            incomplete.append(name)
    for name in incomplete:
        folder = shlex.quote(str(root / DATASETS[name].folder))
        commands = DATASETS[name].commands.format(folder=folder, root=shlex.quote(str(root)))
        print(f"\n# {name}, for {DATASETS[name].used_by}:{commands}", end="")
    return incomplete


ACTIONS = {"pack": pack.main, "stats": stats.main}


def main(words: list[str] | None = None) -> None:
    words = sys.argv[1:] if words is None else words
    if words and words[0] in ACTIONS:
        ACTIONS[words[0]](words[1:])
        return
    options = parse_arguments(words)
    with report_errors():
        incomplete = prepare_data(**vars(options))
    if set(incomplete) & set(options.datasets):
        raise SystemExit(1)
