"""``mmsalmask <command> …``: all tools under one name, wherever the package is installed.

``mmsalmask train CONFIG`` is ``python tools/train.py CONFIG``, and ``python -m mmsalmask train``
the same for launchers: ``torchrun --nproc-per-node 4 -m mmsalmask train … --launcher pytorch``.
"""

import ast
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

from mmsalmask import __version__
from mmsalmask.shipped import TOOLS

_OWN = Path(__file__).resolve().parent / "commands"
COMMANDS = {
    "demo": "demo",
    "train": "train",
    "test": "test",
    "knn": "knn",
    "linear": "linear",
    "transfer": "transfer",
    "depth": "depth_report",
    "masks": "browse_masks",
    "cache": "cache_saliency",
    "export": "export_backbone",
    "ablate": "ablate",
    "data": "prepare_data",
    "embed": "embed",
    "diagnose": "diagnose",
    "models": "models",
    "doctor": "doctor",
}
# With one of these, `train` is handed a method and images instead of a config.
_PRETRAINING = ("--method", "--data")


def usage() -> str:
    """What there is, a command in a line."""
    lines = ["usage: mmsalmask COMMAND …   (mmsalmask COMMAND --help tells more)", ""]
    for command, tool in COMMANDS.items():
        file = _module(tool) or TOOLS / f"{tool}.py"
        source = file.read_text(encoding="utf-8")
        lines.append(f"  {command:<10}{ast.get_docstring(ast.parse(source)).splitlines()[0]}")
    return "\n".join([*lines, "", "A CONFIG is a file, or one of this package: mmsalmask::demo/…"])


def run(tool: Path) -> None:
    """Run a script as the main module. ``runpy`` would put its file's name into ``sys.argv``."""
    module = ModuleType("__main__")
    module.__file__ = str(tool)
    sys.modules["__main__"] = module  # where worker processes look for its classes
    exec(compile(tool.read_text(encoding="utf-8"), tool, "exec"), vars(module))


def _module(tool: str) -> Path | None:
    """The file of a command of mmsalmask.commands; ``None`` for a tool that is a script."""
    file = _OWN / f"{tool}.py"
    return file if file.is_file() else None


def _tool(command: str, words: list[str]) -> str:
    """What a command runs: `train` may be handed a method and images instead of a config."""
    pretrains = any(word.partition("=")[0] in _PRETRAINING for word in words)
    return "pretrain" if command == "train" and pretrains else COMMANDS[command]


def main() -> None:
    """Run the tool that the first argument names, with the others."""
    command, *words = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help", "--version"):
        print(f"mmsalmask {__version__}" if command == "--version" else usage())
    elif command in COMMANDS and (module := _module(_tool(command, words))):
        sys.argv = [f"mmsalmask {command}", *words]
        import_module(f"mmsalmask.commands.{module.stem}").main()
    elif command in COMMANDS:
        sys.argv = [f"mmsalmask {command}", *words]
        run(TOOLS / f"{COMMANDS[command]}.py")
    else:
        # Nothing heavy is imported for this: it is there at once.
        print(f"error: no command '{command}': give one of {', '.join(COMMANDS)}", file=sys.stderr)
        raise SystemExit(2)


if __name__ == "__main__":
    main()
