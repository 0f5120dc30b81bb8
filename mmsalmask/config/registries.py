"""Find what a ``type`` of a config names in the libraries that will look it up."""

import functools
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

from mmengine import registry as roots
from mmengine.registry import Registry
from mmengine.utils import get_object_from_string

from mmsalmask.config.spots import Spot
from mmsalmask.config.wording import ask, nearest
from mmsalmask.errors import InputError

_LIBRARIES = ("mmsalmask", "mmpretrain", "mmdet", "mmseg", "mmengine")


def resolve(spot: Spot, name: str) -> list[Callable]:
    """Return what ``name`` may mean here: one part, or several if the registry is not known."""
    prefix, _, bare = name.rpartition(".")
    if prefix and prefix not in _LIBRARIES and not _registered_scope(prefix):
        try:
            return [get_object_from_string(name) or _unknown(spot, name)]
        except ImportError:
            _unknown(spot, name)
    if prefix:
        import_library(prefix, spot.name)
    scopes = (prefix,) if prefix else spot.scopes
    if spot.registry is not None:
        part = _find(spot.registry, bare, scopes, with_root=not prefix)
        if part is not None:
            return [part]
    if spot.registry is None or not spot.exact:
        everywhere = _all_registries(tuple(dict.fromkeys((*scopes, *spot.scopes))))
        found = [_find(registry, bare, scopes, with_root=not prefix) for registry in everywhere]
        if any(part is not None for part in found):
            return [part for part in dict.fromkeys(found) if part is not None]
        if bare.islower():
            return []  # a mode of whoever reads the dict, such as mmdet's `dict(type='dilation')`
    _unknown(spot, name)


def _find(root: Registry, name: str, scopes: tuple[str, ...], with_root: bool) -> Callable | None:
    for registry in _searched(root, scopes, with_root):
        registry.import_from_location()
        if name in registry.module_dict:
            return registry.module_dict[name]
    return None


def _searched(root: Registry, scopes: tuple[str, ...], with_root: bool) -> list[Registry]:
    searched = []
    for scope in scopes:
        import_library(scope, "default_scope")
        if scope in (root.scope, "mmengine"):
            searched.append(root)
        elif scope in root.children:
            searched.append(root.children[scope])
    if with_root and root not in searched:
        searched.append(root)
    return searched


def _all_registries(scopes: tuple[str, ...]) -> list[Registry]:
    """Return mmengine's root registries, and the roots that the libraries have of their own."""
    modules = [roots, *(import_module(f"{s}.registry") for s in scopes if import_library(s, ""))]
    found = [r for m in modules for r in vars(m).values() if isinstance(r, Registry)]
    return list(dict.fromkeys(registry for registry in found if registry.parent is None))


def _registered_scope(scope: str) -> bool:
    return any(scope in registry.children for registry in _all_registries(()))


@functools.cache
def import_library(scope: str, path: str) -> bool:
    """Import a library's registries; False where it has none."""
    if find_spec(scope) is None:
        if _registered_scope(scope):
            return False
        near = nearest(scope, {name: name for name in _LIBRARIES})
        if near and near != [scope]:
            raise InputError(f"{path}: no library is called '{scope}'{ask(near)}")
        raise InputError(f"{path}: the library '{scope}' is not installed")
    if find_spec(f"{scope}.registry") is None:
        return False
    import_module(f"{scope}.registry")
    return True


def _unknown(spot: Spot, name: str) -> None:
    root = spot.registry
    kind = "part" if root is None or not spot.exact else root.name.replace("_", " ")
    pool: dict[str, str] = {}
    for registry in _all_registries(()) if root is None else [root]:
        pool |= _display_names(registry, name, spot.scopes)
    bare = name.rpartition(".")[2]
    # Without their scopes, which would make any two names alike.
    alike = {written.rpartition(".")[2]: written for written in reversed(pool.values())}
    near = nearest(bare, alike, cutoff=0.7)
    own = "; if it is yours, name its module in custom_imports"
    own = "" if nearest(bare, alike, cutoff=0.85) else own
    raise InputError(f"{spot.name}: '{name}' is not a registered {kind}{ask(near)}{own}")


def _display_names(root: Registry, name: str, scopes: tuple[str, ...]) -> dict[str, str]:
    """Map each name to compare with to how it is written here, the most likely ones first."""
    wanted = name.rpartition(".")[0]
    order = dict.fromkeys((*([wanted] if wanted else []), *scopes, "mmengine", *_LIBRARIES))
    pool: dict[str, str] = {}
    for scope in order:
        registry = root if scope == "mmengine" else root.children.get(scope)
        if registry is None:
            continue
        registry.import_from_location()
        plain = not wanted and scope in (scopes[0], "mmengine")
        for bare in registry.module_dict:
            written = bare if plain or scope == "mmengine" else f"{scope}.{bare}"
            pool.setdefault(written if wanted else bare, written)
    return pool
