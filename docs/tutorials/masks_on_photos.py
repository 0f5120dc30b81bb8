"""What each strategy hides of a few photos, in plain PyTorch.

python docs/tutorials/masks_on_photos.py photos/ -o masks_on_photos.jpg
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image, ImageOps

from mmsalmask.masking import HighPassNoise, MeanFill, SaliencyMasker, StrongBlur
from mmsalmask.saliency import BoundaryPriorSaliency

MEAN = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
STD = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("photos", type=Path, help="folder of images")
parser.add_argument("-o", "--out", type=Path, default=Path("masks_on_photos.jpg"))
parser.add_argument("--size", type=int, default=112, help="side of the views in pixels")
options = parser.parse_args()

# 1. Read photos
files = sorted(options.photos.rglob("*.*"))
files = files[:: max(1, len(files) // 3)][:3]
photos = [ImageOps.fit(Image.open(file).convert("RGB"), (options.size,) * 2) for file in files]
pixels = torch.from_numpy(np.stack([np.asarray(photo) for photo in photos]))
views = (pixels.permute(0, 3, 1, 2).float() - MEAN) / STD  # (N, 3, H, W), normalised

# 2. Mask them
torch.manual_seed(0)
made = {}
for strategy in (HighPassNoise(), StrongBlur(), MeanFill()):
    masker = SaliencyMasker(strategy, BoundaryPriorSaliency())
    made[type(strategy).__name__] = masker(views, views)  # query and key are one view here

# 3. Count what is hidden
for name, masked in made.items():
    inside = masked.query_foreground.float().mean()
    hidden = masked.query_mask.float().mean()
    print(f"{name}: {inside:.0%} of the views is foreground, {hidden:.0%} of the query is masked")


# 4. Draw
def show(view: torch.Tensor) -> np.ndarray:
    return ((view * STD + MEAN) / 255).clamp(0, 1).permute(1, 2, 0).numpy()


titles = ["view", "saliency", *(f"{name}\n{of}" for name in made for of in ("query", "hard neg."))]
figure, axes = plt.subplots(len(views), len(titles), figsize=(1.4 * len(titles), 1.5 * len(views)))
for row, view in enumerate(views):
    shown = [show(view), made["MeanFill"].query_saliency[row].numpy()]
    for masked in made.values():
        shown += [show(masked.query[row]), show(masked.hard_negatives[0][row])]
    for axis, picture, title in zip(axes[row], shown, titles, strict=True):
        axis.imshow(picture)
        axis.set_axis_off()
        if row == 0:
            axis.set_title(title, fontsize=8)
figure.tight_layout(pad=0.3)
figure.savefig(options.out, dpi=110)
print(options.out)
