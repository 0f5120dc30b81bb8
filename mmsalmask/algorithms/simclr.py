"""SimCLR with hard negatives for every anchor."""

import torch
from torch import Tensor

from mmsalmask.algorithms.base import MaskedAlgorithm
from mmsalmask.algorithms.distributed import of_other_processes
from mmsalmask.algorithms.encoder import embed, kept_statistics
from mmsalmask.registry import MODELS


@MODELS.register_module()
class MaskedSimCLR(MaskedAlgorithm):
    """SimCLR of a masked view with a clean one (Chen et al. 2020; paper, §3).

    Takes ``inputs = [first view, second view, hard_negative, …]`` as the masking preprocessor hands
    them on (its query and key are the first and the second view); with two inputs it is plain
    SimCLR. It knows nothing of saliency.

    Local crops of the first view are further anchors, whose positive is the second view
    (multi-crop, Caron et al. 2020). They are no one's negatives.

    One encoder embeds everything, with gradient: both views in one forward, so that they share
    BatchNorm statistics, and hard negatives and local crops in forwards of their own, so that
    theirs stay apart. The running statistics, with which a backbone is exported, are those of the
    views alone.

    Over several processes, each computes the loss of its own anchors against the views of all, and
    the mean that DDP takes of the gradients is the gradient of the joined batch's loss. That holds
    for encoders that treat images independently; with BatchNorm it takes ``SyncBN``.

    Args:
        backbone, neck: configs of the encoder.
        head: config of a head with ``loss(first, second, hard_negatives, negatives)``, which gets
            ``crops=…``, too, where there are local crops.
        data_preprocessor: config; a ``mmsalmask.MaskingDataPreprocessor`` without a masker where
            there is none.
        init_cfg: as in mmengine.
    """

    takes_hard_negatives = True
    takes_local_crops = True

    def loss(
        self,
        inputs: list[Tensor],
        data_samples: list | None = None,
        local_crops: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Loss and contrast accuracy of this process's anchors.

        Args:
            inputs: two views (N, 3, H, W), then M ≥ 0 hard negatives of that shape; the same N in
                every process.
            data_samples: not used.
            local_crops: (L·N, 3, h, w), further anchors, all first ones before all second ones.

        Returns:
            What the head returns.
        """
        first_view, second_view, *hard_views = inputs
        views = self._embed(torch.cat([first_view, second_view]))
        with kept_statistics([self.backbone, self.neck]):
            hard = [self._embed(view) for view in hard_views]
            # A head of a user's own need not know of crops.
            crops = {} if local_crops is None else {"crops": self._embed(local_crops)}
        return self.head.loss(
            *views.chunk(2),
            torch.stack(hard, dim=1) if hard else None,
            of_other_processes(views),
            **crops,
        )

    def _embed(self, views: Tensor) -> Tensor:
        """ℓ2-normalised float32 embeddings (N, D)."""
        return embed(self._encoder, views)
