"""Where to compute."""

import torch

from mmsalmask.checks import check_device
from mmsalmask.errors import InputError


def choose_device(name: str | None) -> torch.device:
    """The device of this name; without a name the first GPU, where there is one, else the CPU.

    Raises:
        InputError: there is none of this name here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return check_device(name)
    except InputError as error:
        raise InputError(str(error).replace(f"--device {name}", f"device '{name}'")) from error
