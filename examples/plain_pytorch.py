"""MoCo v2 with saliency masking on a folder of images, in plain PyTorch.

    python examples/plain_pytorch.py photos/ --epochs 100 --out encoder.pth

It searches subfolders and needs no labels. Of mmsalmask it uses the rooms that need PyTorch alone:
augmentation, saliency, masking and losses. A query, which lost part of its foreground and of its
background, has to match the key of the same image better than the keys of other images in the
queue, and better than a hard negative: the key without most of its object.
"""

import argparse
import copy
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets.folder import default_loader
from torchvision.models import resnet18
from torchvision.transforms.functional import pil_to_tensor

from mmsalmask.augmentation import DeviceAugmentation, RandomView
from mmsalmask.losses import info_nce
from mmsalmask.masking import HighPassNoise, SaliencyMasker
from mmsalmask.saliency import BoundaryPriorSaliency

# Of ImageNet's pixels, red, green and blue.
MEAN, STD = torch.tensor([[123.675, 116.28, 103.53], [58.395, 57.12, 57.375]]).view(2, 3, 1, 1)


class Photos(Dataset):
    """Whole images squeezed to one size, uint8 (3, S, S); views are cut from them on the device."""

    def __init__(self, folder: str, size: int) -> None:
        kinds = (".jpg", ".jpeg", ".png", ".webp")
        self.files = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in kinds)
        self.size = size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int, Tensor]:
        image = default_loader(str(self.files[index]))
        whole = pil_to_tensor(image.resize((self.size, self.size)))
        return whole, index, torch.tensor([image.height, image.width])


def encoder(dim: int = 128) -> nn.Module:
    """A ResNet-18 with MoCo v2's two layers behind its pooling."""
    net = resnet18()
    net.fc = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, dim))
    return net


class MoCo(nn.Module):
    """Query and momentum encoder, and a queue of keys (Chen et al. 2020)."""

    def __init__(self, queue: int, momentum: float, dim: int = 128) -> None:
        super().__init__()
        self.query_encoder, self.momentum = encoder(dim), momentum
        self.key_encoder = copy.deepcopy(self.query_encoder).requires_grad_(False)
        self.register_buffer("queue", F.normalize(torch.randn(queue, dim), dim=1))

    def forward(self, query: Tensor, key: Tensor, hard_negative: Tensor) -> Tensor:
        """The loss of views (N, 3, H, W): masked queries, clean keys, keys without the object."""
        q = F.normalize(self.query_encoder(query), dim=1)
        with torch.no_grad():
            pairs = zip(self.key_encoder.parameters(), self.query_encoder.parameters(), strict=True)
            for slow, fast in pairs:
                slow.lerp_(fast, 1 - self.momentum)
            # Two forwards: BatchNorm must not mix keys with hard negatives.
            k, h = (F.normalize(self.key_encoder(view), dim=1) for view in (key, hard_negative))
        loss = info_nce(q, k, self.queue, h, penalty=2.0, temperature=0.2)
        self.queue = torch.cat([k, self.queue])[: len(self.queue)]
        return loss


def main(arguments: list[str] | None = None) -> list[float]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="of images")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--size", type=int, default=224, help="pixels of a view")
    parser.add_argument("--queue", type=int, default=4096, help="keys; fewer than images")
    parser.add_argument("--momentum", type=float, default=0.99, help="of the key encoder")
    parser.add_argument("--lr", type=float, default=0.03)
    parser.add_argument("--out", default="encoder.pth", help="the trained ResNet-18's weights")
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    photos = Photos(options.folder, options.size * 9 // 7)
    if len(photos) < options.batch_size:
        parser.error(f"{options.folder} holds {len(photos)} images, fewer than a batch")
    loader = DataLoader(photos, options.batch_size, shuffle=True, drop_last=True, num_workers=2)
    augment = DeviceAugmentation(RandomView(options.size))
    masker = SaliencyMasker(HighPassNoise(), BoundaryPriorSaliency())
    model = MoCo(options.queue, options.momentum).to(device).train()
    optimizer = torch.optim.SGD(
        model.query_encoder.parameters(), options.lr, momentum=0.9, weight_decay=1e-4
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs)
    mean, std, losses = MEAN.to(device), STD.to(device), []
    for epoch in range(options.epochs):
        for images, index, sizes in loader:
            views, _ = augment(images.to(device), index.to(device), sizes)
            masked = masker(*((view - mean) / std for view in views))
            loss = model(masked.query, masked.key, masked.hard_negatives[0])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        schedule.step()
        print(f"epoch {epoch + 1}: loss {torch.stack(losses[-len(loader) :]).mean():.3f}")
    # Downstream images have to be high-pass filtered, too: mmsalmask.masking.high_pass.
    backbone = {k: v for k, v in model.query_encoder.state_dict().items() if k[:3] != "fc."}
    torch.save(backbone, options.out)
    return torch.stack(losses).tolist()


if __name__ == "__main__":
    main()
