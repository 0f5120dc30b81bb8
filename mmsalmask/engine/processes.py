"""Joining several processes where there is no GPU, and parting from them."""

import atexit
import os
import time

import torch
from mmengine import Config

from mmsalmask.config.spots import root_of, step, walk
from mmsalmask.errors import InputError


def distribute_over_cpus(config: Config) -> None:
    """mmengine takes a launcher to mean GPUs; without any, join the processes through gloo.

    Raises:
        InputError: another launcher than torchrun has started them, or the model has SyncBN.
    """
    if config.launcher != "pytorch":
        raise InputError("without GPUs only --launcher pytorch (torchrun) can distribute training")
    model = walk(step(root_of(config), "model")) if "model" in config else ()
    synced = [spot.name for spot in model if spot.value == "SyncBN"]
    if synced or config.get("sync_bn"):
        raise InputError(
            f"{synced[0] if synced else 'sync_bn'} joins the BatchNorm of all processes, for which "
            "they need GPUs: train in one process, or give each its own ('BN', or 'BN1d' in a neck)"
        )
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
        atexit.register(leave_process_group)  # also after an error, which all processes tell
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    config.setdefault(
        "model_wrapper_cfg",
        dict(
            type="MMDistributedDataParallel",
            device_ids=None,  # mmengine would name a GPU
            broadcast_buffers=False,
            find_unused_parameters=config.get("find_unused_parameters", False),
        ),
    )


def leave_process_group() -> None:
    """Part from the other processes, so that exiting cannot abort this one.

    A thread of gloo drops the tensors of the last collective, for which it needs Python's lock. The
    model wrapper keeps such threads alive whatever is destroyed, and one that still waits for the
    lock when the interpreter ends aborts the process (exit status -6). Sleeping hands it the lock.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        time.sleep(0.2)
