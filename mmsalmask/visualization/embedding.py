"""Features of images, laid out in the plane."""

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from torch import Tensor
from torch.utils.data import DataLoader

from mmsalmask.data import ImageFolder
from mmsalmask.evaluation.features import EncoderView, bands_of, extract_features, load_backbone
from mmsalmask.evaluation.labelled import CentreCrops


def most_frequent(labels: np.ndarray, classes: int, images: int) -> np.ndarray:
    """Indices of the first images of the classes that have most, class by class.

    Args:
        labels: (N,), integer, not negative.
        classes: how many classes; the lower label among equals.
        images: of each class at the most.

    Returns:
        Indices into ``labels``, int64.
    """
    counts = np.bincount(labels)
    chosen = np.argsort(-counts, kind="stable")[:classes]
    return np.concatenate([np.flatnonzero(labels == label)[:images] for label in chosen])


def tsne(features: Tensor, seed: int) -> np.ndarray:
    """Points (N, 2), float32, of features (N, D) by t-SNE (van der Maaten and Hinton, JMLR 2008).

    Features are ℓ2-normalised, as for kNN. The perplexity is 30, or a third of N − 1 if that is
    less. The layout starts from the principal components.
    """
    from sklearn.manifold import TSNE  # takes seconds to import
    from threadpoolctl import threadpool_limits

    points = F.normalize(features, dim=1).cpu().numpy()
    perplexity = min(30.0, (len(points) - 1) / 3)
    # For so few points, threads wait for each other longer than they work.
    with threadpool_limits(1):
        return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(points)


def embed(
    config: Config,
    checkpoint: str,
    folder: str,
    size: int,
    seed: int = 0,
    classes: int = 10,
    images: int = 40,
) -> dict:
    """Lay out what a backbone makes of the largest classes of a folder ``<class>/<image>``.

    Args:
        config: of the encoder, as for :func:`mmsalmask.evaluation.features.load_backbone`.
        checkpoint: of the backbone.
        folder: with a subfolder per class.
        size: of the crops in pixels.
        seed: of the layout.
        classes: how many of the largest classes.
        images: at most so many of each class.

    Returns:
        ``points`` (N lists of two), ``labels`` (N) and ``classes``, the names that labels index.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    crops = [CentreCrops(size, bands_of(config))]
    dataset = ImageFolder(folder, crops, with_label=True, test_mode=True)
    labels = np.array([dataset.get_data_info(i)["gt_label"] for i in range(len(dataset))])
    chosen = most_frequent(labels, classes, images)
    loader = DataLoader(dataset.get_subset(chosen.tolist()), batch_size=50)
    backbone = load_backbone(config, checkpoint, seed).to(device)
    features, found = extract_features(backbone, loader, device, EncoderView(config))
    points = tsne(features, seed)
    return {
        "points": [[round(float(value), 3) for value in point] for point in points],
        "labels": found.tolist(),
        "classes": list(dataset.metainfo["classes"]),
    }
