"""Configs that cannot be mistyped.

mmengine adds an unknown key of ``--cfg-options`` silently, and a misspelt key of a config file
surfaces minutes later, as a TypeError from inside a class, or never. Here both are found before
anything is built, and named, with the nearest thing that exists:

- :func:`load_config` reads a file and merges the options of the command line;
- :func:`check_config` compares every key and every ``type`` with what will receive it.
"""

from mmsalmask.config.bases import add_imports
from mmsalmask.config.checking import check_config
from mmsalmask.config.reading import config_file, load_config, override
from mmsalmask.config.values import check_together, optimizers

__all__ = [
    "add_imports",
    "check_config",
    "check_together",
    "config_file",
    "load_config",
    "optimizers",
    "override",
]
