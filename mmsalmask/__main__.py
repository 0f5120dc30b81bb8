"""``mmsalmask <command> …``: all commands under one name, wherever the package is installed.

``mmsalmask train CONFIG`` is ``python tools/train.py CONFIG``, and ``python -m mmsalmask train``
the same for launchers: ``torchrun --nproc-per-node 4 -m mmsalmask train … --launcher pytorch``.
"""

import ast
import sys
from importlib import import_module
from pathlib import Path

from mmsalmask import __version__

# The module of mmsalmask.commands that each command runs.
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
    "report": "report",
    "models": "models",
    "doctor": "doctor",
}


def usage() -> str:
    """The commands, one a line. They are not imported: that would take seconds."""
    folder = Path(__file__).resolve().parent / "commands"
    lines = ["usage: mmsalmask COMMAND …   (mmsalmask COMMAND --help tells more)", ""]
    for command, module in COMMANDS.items():
        source = (folder / f"{module}.py").read_text(encoding="utf-8")
        lines.append(f"  {command:<10}{ast.get_docstring(ast.parse(source)).splitlines()[0]}")
    return "\n".join([*lines, "", "A CONFIG is a file, or one of this package: mmsalmask::demo/…"])


def main() -> None:
    """Run the command that the first argument names, with the other arguments."""
    command, *words = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help", "--version"):
        print(f"mmsalmask {__version__}" if command == "--version" else usage())
    elif command in COMMANDS:
        sys.argv = [f"mmsalmask {command}", *words]
        import_module(f"mmsalmask.commands.{COMMANDS[command]}").main()
    else:
        # Nothing heavy is imported for this: it is there at once.
        print(f"error: no command '{command}': give one of {', '.join(COMMANDS)}", file=sys.stderr)
        raise SystemExit(2)


if __name__ == "__main__":
    main()
