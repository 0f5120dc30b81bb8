"""What the algorithms share: the parts of an encoder."""

from typing import Any

from torch import nn

from mmsalmask.checks import check_part


def check_encoder(backbone: Any, neck: Any, head: Any) -> None:
    """Refuse an algorithm that lacks one of these, each a config or a module.

    Raises:
        InputError: names the part.
    """
    for name, part in (("backbone", backbone), ("neck", neck), ("head", head)):
        if not isinstance(part, nn.Module):
            check_part(f"model.{name}", part)
