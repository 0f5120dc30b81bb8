"""Where the configs of this package lie."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
# Installed, they are where mmengine and mim look; in a checkout that is not, beside the package.
SHIPPED = _PACKAGE / ".mim" if (_PACKAGE / ".mim").is_dir() else _PACKAGE.parent
CONFIGS = SHIPPED / "configs"
