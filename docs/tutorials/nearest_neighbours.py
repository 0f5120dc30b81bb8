"""Judge a backbone of the model zoo by its neighbours, with and without the filter it needs.

python docs/tutorials/nearest_neighbours.py imagenette/train imagenette/val -o neighbours.jpg
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from mmpretrain.models import ResNet
from PIL import Image, ImageOps

from mmsalmask.evaluation.knn import knn_classify
from mmsalmask.masking import high_pass

MODEL = "mocov2-salmask-highpass_resnet18-w16_1xb128-coslr-50e_imagenette-64px"
WEIGHTS = Path(__file__).resolve().parents[2] / "weights" / f"{MODEL}.pth"
MEAN = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
STD = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("train", type=Path, help="folder <class>/<image> of the neighbours")
parser.add_argument("test", type=Path, help="folder <class>/<image> of the questions")
parser.add_argument("-o", "--out", type=Path, default=Path("nearest_neighbours.jpg"))
parser.add_argument("--per-class", type=int, default=200, help="photos of each class and side")
options = parser.parse_args()


# 1. Read photos
def read(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Photos, uint8 (N, 3, 64, 64), and their classes, int64 (N,)."""
    photos, labels = [], []
    for label, group in enumerate(sorted(path for path in folder.iterdir() if path.is_dir())):
        for file in sorted(group.iterdir())[: options.per_class]:
            photo = ImageOps.fit(Image.open(file).convert("RGB"), (64, 64), centering=(0.5, 0.5))
            photos.append(np.asarray(photo))
            labels.append(label)
    return torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2), torch.tensor(labels)


train, train_labels = read(options.train)
test, test_labels = read(options.test)


# 2. Load the backbone
def network(trained: bool) -> torch.nn.Module:
    torch.manual_seed(0)
    net = ResNet(depth=18, base_channels=16, stem_channels=16)
    if trained:
        state = torch.load(WEIGHTS, weights_only=True)["state_dict"]
        net.load_state_dict({name: value.float() for name, value in state.items()}, strict=False)
    net.eval()
    return net


# 3. Embed the photos
@torch.no_grad()
def embed(net: torch.nn.Module, photos: torch.Tensor, filtered: bool) -> torch.Tensor:
    """ℓ2-normalised features (N, D)."""
    features = []
    for batch in photos.split(256):
        views = (batch.float() - MEAN) / STD
        if filtered:
            views = high_pass(views, kernel_size=11, sigma=5.0)
        features.append(net(views)[-1].mean((2, 3)))
    return F.normalize(torch.cat(features), dim=1)


# 4. Compare
ways = {
    "untrained": (network(trained=False), True),
    "trained, plain photos": (network(trained=True), False),
    "trained, filtered photos": (network(trained=True), True),
}
for name, (net, filtered) in ways.items():
    bank, asked = embed(net, train, filtered), embed(net, test, filtered)
    right = knn_classify(bank, train_labels, asked, k=min(20, len(bank))) == test_labels
    print(f"{name}: kNN accuracy {100 * right.float().mean():.1f} %")

# 5. Draw the nearest neighbours of a photo of each of five classes
nearest = (asked @ bank.T).topk(5).indices  # of the last way
classes = test_labels.unique()[:5]
chosen = [int((test_labels == label).nonzero()[0]) for label in classes]
figure, axes = plt.subplots(len(chosen), 6, figsize=(6.6, 1.15 * len(chosen)))
for row, query in enumerate(chosen):
    shown = [(test[query], None), *((train[i], train_labels[i]) for i in nearest[query])]
    for axis, (photo, label) in zip(axes[row], shown, strict=True):
        axis.imshow(photo.permute(1, 2, 0))
        axis.set(xticks=[], yticks=[])
        colour = "black" if label is None else "green" if label == test_labels[query] else "red"
        for spine in axis.spines.values():
            spine.set(color=colour, linewidth=2)
axes[0][0].set_title("question", fontsize=8)
axes[0][3].set_title("nearest training photos", fontsize=8)
figure.tight_layout(pad=0.3)
figure.savefig(options.out, dpi=110)
print(options.out)
