"""Files that have broken somebody's training, and a training on all of them."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from system.processes import run_through
from system.small_runs import cases, draw_images


def make_bad_files(folder: Path) -> dict[str, Path]:
    """One file of each kind that has broken somebody's training, by what is strange about it."""
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    photo, made = Image.fromarray(pixels), {}

    def save(kind: str, image: Image.Image, name: str, **options: Any) -> None:
        made[kind] = folder / name
        image.save(made[kind], **options)

    save("plain", photo, "plain.jpg")
    save("CMYK", photo.convert("CMYK"), "cmyk.jpg")
    save("16-bit grey", Image.fromarray(pixels[..., 0].astype(np.uint16) * 257), "deep.png")
    save("palette with transparency", photo.convert("P"), "palette.png", transparency=0)
    save("animated", photo, "moving.gif", save_all=True, append_images=[photo.rotate(90)])
    turned = Image.Exif()
    turned[0x0112] = 6
    save("rotated by EXIF", photo, "turned.jpg", exif=turned)
    save("1 × 1 pixels", photo.crop((0, 0, 1, 1)), "dot.png")
    save("20,000 × 10 pixels", photo.resize((20000, 10)), "line.png")
    save("decompression bomb", Image.new("1", (15000, 15000)), "bomb.png")
    save("Unicode name", photo, "фото 写真 \N{COMBINING ACUTE ACCENT}é.png")
    save("wrong extension", photo, "really_a_png.jpg", format="PNG")
    whole = made["plain"].read_bytes()
    for kind, name, content in (
        ("truncated", "cut.jpg", whole[: len(whole) // 2]),
        ("header only", "header.jpg", whole[:20]),
        ("empty", "empty.jpg", b""),
        ("text", "text.jpg", b"<html>404 Not Found</html>"),
        ("random bytes", "noise.png", pixels.tobytes()),
    ):
        made[kind] = folder / name
        made[kind].write_bytes(content)
    made["unreadable"] = folder / "secret.jpg"
    made["unreadable"].write_bytes(whole)
    made["unreadable"].chmod(0)
    made["link to nowhere"] = folder / "gone.jpg"
    made["link to nowhere"].symlink_to(folder / "never_was.jpg")
    made["link to itself"] = folder / "itself.jpg"
    made["link to itself"].symlink_to(made["link to itself"])
    made["loop of folders"] = folder / "loop"
    made["loop of folders"].symlink_to(folder)
    return made


def train_on_bad_files(folder: Path) -> dict:
    """Train on such a folder, tolerating all of them; what became of each."""
    torch.set_num_threads(1)
    draw_images(folder / "images", 6)
    made = make_bad_files(folder / "images" / "0" / "bad")
    config, work = folder / "bad.py", folder / "bad"
    config.write_text(cases(folder / "images")[0].text)
    run_through(config, work, "--cfg-options", "custom_hooks.2.limit=1.0")
    text = work.with_suffix(".txt").read_text()
    found = {}
    for kind, path in made.items():
        reason = re.search(rf"broken image {re.escape(str(path))}: (.*)", text)
        found[kind] = f"skipped: {reason[1]}" if reason else "decoded"
    found["loop of folders"] = "each folder searched once"
    if os.geteuid() == 0 and found["unreadable"] == "decoded":
        found["unreadable"] = "decoded, as permissions do not bind root"
    return {"files": found}
