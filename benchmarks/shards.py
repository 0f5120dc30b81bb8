"""Images per second of shards beside their folder, and what an index of a million images takes.

    python benchmarks/shards.py [--photos FOLDER] [--rounds 9] [--members 1000000] [--json FILE]

Photos are read and decoded in random order by ``read_image``, from the folder and from shards
packed of it, in turns in one process on one thread: seconds of the processor, so that figures hold
on a busy machine. The ratio is the median over rounds.

The index is generated: as many members as asked for, in a hundred shards. A fresh process opens it
as a labelled dataset; then four workers look at images all over it, and what of it each holds in
memory is read from ``/proc`` (PSS: a page that workers share counts once).
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from photos import unpack

from mmsalmask.cli import report_errors
from mmsalmask.data import ImageFolder, pack, read_image
from mmsalmask.data.loading import EXTENSIONS
from mmsalmask.data.storage import Names
from mmsalmask.data.storage.tar_index import Index, save_index
from mmsalmask.provenance import provenance, write_result

PER_ROUND = 200
WORKERS, SHARDS, CLASSES = 4, 100, 1000


def speed(photos: Path, folder: Path, rounds: int) -> dict:
    """Images per second of both, and the median of the rounds' ratios."""
    pack(photos, folder / "packed", shard_bytes=2 * 10**6)
    sides = {"folder": ImageFolder(str(photos)), "shards": ImageFolder(str(folder / "packed"))}
    rng, seconds = np.random.default_rng(0), {name: [] for name in sides}
    for round_ in range(rounds + 1):
        order = rng.integers(len(sides["folder"]), size=PER_ROUND).tolist()
        for name in list(sides)[:: 1 if round_ % 2 else -1]:
            start = time.process_time()
            for index in order:
                read_image(sides[name].get_data_info(index)["img_path"])
            if round_:  # the first round warms up
                seconds[name].append((time.process_time() - start) / PER_ROUND)
    ratios = [f / s for f, s in zip(*seconds.values(), strict=True)]
    return {
        "images": len(sides["folder"]),
        "images_per_second": {k: 1 / statistics.median(v) for k, v in seconds.items()},
        "shards_over_folder": statistics.median(ratios),
    }


def generate(folder: Path, members: int) -> None:
    """Shards that are empty, and the index that they would have with so many members."""
    shards = [folder / f"shard-{number:06d}.tar" for number in range(SHARDS)]
    for shard in shards:
        tarfile.open(shard, "w").close()
    label = np.arange(members) * CLASSES // members
    names = (f"n{c:08d}/n{c:08d}_{i % 1300}.JPEG" for i, c in enumerate(label.tolist()))
    index = Index(
        names=Names.pack(names),
        offsets=np.arange(members, dtype=np.int64) * 110_000,
        sizes=np.full(members, 109_000, dtype=np.int64),
        shards=(np.arange(members) * SHARDS // members).astype(np.int32),
        labels=label.astype(np.int32),
        classes=tuple(f"n{c:08d}" for c in range(CLASSES)),
        skipped={},
    )
    save_index(index, str(folder), [str(shard) for shard in shards], EXTENSIONS)


def open_million(root: str) -> dict:
    """Open it, and look into it from several workers."""
    start = time.perf_counter()
    dataset = ImageFolder(root, with_label=True)
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    dataset.fingerprint  # noqa: B018
    told = time.perf_counter() - start
    context = multiprocessing.get_context("fork")
    ready, answers = context.Barrier(WORKERS), context.Queue()
    processes = [
        context.Process(target=look, args=(dataset, root, seed, ready, answers))
        for seed in range(WORKERS)
    ]
    for process in processes:
        process.start()
    mapped = sum(answers.get() for _ in processes)
    for process in processes:
        process.join()
    listing = dataset.data_list
    own = (listing.places, listing.positions, listing.labels, dataset.broken.numpy())
    return {
        "members": len(dataset),
        "seconds_to_open": seconds,
        "seconds_to_fingerprint": told,
        "workers": WORKERS,
        "index_megabytes": listing.storage.index.nbytes / 1e6,
        "index_megabytes_in_all_workers": mapped / 1e6,
        "listing_megabytes_shared": sum(part.nbytes for part in own) / 1e6,
    }


def look(dataset: ImageFolder, root: str, seed: int, ready, answers) -> None:
    """Read entries everywhere, wait for the others, then tell the bytes of the mapped index."""
    for index in np.random.default_rng(seed).integers(len(dataset), size=30_000).tolist():
        dataset.get_data_info(index)
        dataset.data_list.storage.size(index)
    ready.wait()
    held, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            inside = line.endswith(os.path.join(os.path.realpath(root), ".mmsalmask-index"))
        elif inside and line.startswith("Pss:"):
            held += 1024 * int(line.split()[1])
    ready.wait()
    answers.put(held)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="a folder of your own")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--members", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--open", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.open:
        print(json.dumps(open_million(options.open)))
        return
    with tempfile.TemporaryDirectory() as folder:
        photos = options.photos or unpack("coco-mini", folder)
        read = speed(photos, Path(folder), options.rounds)
        (many := Path(folder, "many")).mkdir()
        generate(many, options.members)
        command = [sys.executable, __file__, "--open", str(many)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        index = json.loads(done.stdout.splitlines()[-1])
    print(
        f"{read['images']} photos, images/s: folder {read['images_per_second']['folder']:.0f}, "
        f"shards {read['images_per_second']['shards']:.0f}, "
        f"ratio {read['shards_over_folder']:.3f}"
    )
    print(
        f"{index['members']:,} members: opened in {index['seconds_to_open']:.2f} s, known by their "
        f"fingerprint after {index['seconds_to_fingerprint']:.2f} s more; "
        f"{index['index_megabytes']:.0f} MB of index, of which {WORKERS} workers together hold "
        f"{index['index_megabytes_in_all_workers']:.0f} MB, and "
        f"{index['listing_megabytes_shared']:.0f} MB beside it"
    )
    if options.json:
        facts = {"rounds": options.rounds, "reading": read, "index": index}
        write_result(options.json, {**provenance(0), **facts})
        print(f"written: {options.json}")


if __name__ == "__main__":
    with report_errors():
        main()
