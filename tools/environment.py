"""The state of the virtual environment whose Python runs this. tools/install.sh acts on it.

    python -I tools/environment.py key            print a name for the environment wanted
    python -I tools/environment.py missing STAMP  print what to install, a line each, and why
    python -I tools/environment.py stamp STAMP    record that the requirements are installed

It runs before anything is installed: standard library only, but for what ``unmet`` checks.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
FILES = ("requirements.txt", "requirements-dev.txt")
PAIR = {"torch": os.environ["TORCH"], "torchvision": os.environ["TORCHVISION"]}


def fingerprint() -> dict[str, str]:
    """What an environment is made from; two that agree in it are interchangeable."""
    hashes = {name: hashlib.sha256((CHECKOUT / name).read_bytes()).hexdigest() for name in FILES}
    return {"python": platform.python_version(), **PAIR, **hashes}


def changed(stamp: Path) -> str | None:
    """Why the requirements have to be installed by what the stamp says, or None."""
    if not stamp.exists():
        return "not installed yet"
    recorded = json.loads(stamp.read_text())
    names = [name for name, value in fingerprint().items() if recorded.get(name) != value]
    return f"changed: {', '.join(names)}" if names else None


def unmet() -> str | None:
    """The first requirement that is not there in its range, or None. A stamp would not know."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return "packaging is not installed"
    lines = [f"{name}=={version}" for name, version in PAIR.items()]
    for name in FILES:
        lines += [line.split("#")[0].strip() for line in (CHECKOUT / name).read_text().splitlines()]
    for requirement in map(Requirement, filter(None, lines)):
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            return f"{requirement.name} is not installed"
        if not requirement.specifier.contains(version, prereleases=True):
            return f"{requirement} is wanted, {version} is installed"
    return None


def elsewhere() -> str | None:
    """Why ``import mmsalmask`` is not this checkout with its version and configs, or None."""
    package = CHECKOUT / "mmsalmask"
    found = importlib.util.find_spec("mmsalmask")
    if found is None or found.origin is None:
        return "not installed yet"
    if Path(found.origin).resolve() != package / "__init__.py":
        return f"installed from {Path(found.origin).parent.parent}"
    if not importlib.metadata.entry_points(group="console_scripts", name="mmsalmask"):
        return "its command mmsalmask is missing"
    source = (package / "__init__.py").read_text()
    version = re.search('^__version__ = "(.+)"', source, re.MULTILINE).group(1)
    if importlib.metadata.version("mmsalmask") != version:
        return f"installed as {importlib.metadata.version('mmsalmask')}, now {version}"
    if (package / ".mim" / "configs").resolve() != CHECKOUT / "configs":
        return "its links to the configs are gone"
    return None


def main(task: str, *stamp: str) -> None:
    if task == "key":
        print(hashlib.sha256(json.dumps(fingerprint()).encode()).hexdigest()[:16])
    elif task == "missing":
        reasons = {"requirements": changed(Path(*stamp)) or unmet(), "package": elsewhere()}
        for name, reason in reasons.items():
            if reason:
                print(f"{name}: {reason}")
    elif task == "stamp":
        if reason := unmet():
            sys.exit(reason)
        new = Path(*stamp).with_suffix(".new")
        new.write_text(json.dumps(fingerprint(), indent=1) + "\n")
        new.replace(*stamp)  # in one go: a broken-off installation leaves no stamp
    else:
        sys.exit(f"no task {task}")


if __name__ == "__main__":
    main(*sys.argv[1:])
