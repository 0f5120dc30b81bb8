"""Where the configs and the tools lie that belong to this package."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
# Installed, they are where mmengine and mim look; in a checkout that is not, beside the package.
SHIPPED = _PACKAGE / ".mim" if (_PACKAGE / ".mim").is_dir() else _PACKAGE.parent
CONFIGS = SHIPPED / "configs"
TOOLS = SHIPPED / "tools"
