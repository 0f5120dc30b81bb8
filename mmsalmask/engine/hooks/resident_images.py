"""Images that lie on the device for the whole of training."""

import torch
from mmengine.hooks import Hook

from mmsalmask.data.in_memory import resident_datasets
from mmsalmask.engine.models import unwrapped
from mmsalmask.errors import InputError
from mmsalmask.registry import HOOKS


@HOOKS.register_module()
class ResidentImagesHook(Hook):
    """Move the images of ``InMemory(resident=True)`` to the device, where views are made of them.

    Batches are then positions alone, and the host keeps no copy. The images are no part of the
    model: checkpoints do not hold them.

    Raises:
        InputError: before training, if there is not exactly one such dataset, or its images do not
            fit into the device's free memory.
    """

    def before_train(self, runner) -> None:
        model = unwrapped(runner.model)
        found = list(resident_datasets(runner.train_dataloader.dataset))
        if len(found) != 1:
            raise InputError(
                f"ResidentImagesHook serves one InMemory dataset with resident=True, but the "
                f"training data has {len(found)}: remove the hook, or set resident=True"
            )
        if found[0].images is None:  # taken over by an earlier training of this runner
            return
        device = model.data_preprocessor.device
        needed = found[0].images.nbytes
        if device.type == "cuda" and needed > (free := torch.cuda.mem_get_info(device)[0]):
            raise InputError(
                f"the images take {needed / 2**30:.1f} GiB, but {device} has {free / 2**30:.1f} "
                "GiB free: set resident=False, or a smaller LoadWhole.size"
            )
        model.data_preprocessor.images = found[0].images.to(device)
        found[0].images = None
