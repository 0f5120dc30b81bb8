"""Parts that configs may name: classes that register themselves by being defined.

There is no list of them. A file in a folder of parts is read by :func:`load`; a class of your own
is registered when the module that defines it is imported.
"""

from collections.abc import Callable, Iterable
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, ClassVar

from mmsalmask.errors import InputError

_parts: dict[str, type["Part"]] = {}
_followers: list[Callable[[type["Part"]], Any]] = []


class Part:
    """Base of the families of parts, :class:`~mmsalmask.masking.Strategy` and
    :class:`~mmsalmask.saliency.Localizer`, whose subclasses register under their names.

    A class whose name begins with an underscore is not registered, nor is a family itself.

    Attributes:
        example: keyword arguments of a small one, for views of 24 px. Tests, galleries and tables
            go over all parts by it.

    Raises:
        InputError: two modules define a part of the same name.
    """

    example: ClassVar[dict[str, Any]]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if Part in cls.__bases__ or cls.__name__.startswith("_"):
            return
        known = _parts.get(cls.__name__)
        if known is not None and known.__module__ != cls.__module__:
            raise InputError(
                f"{cls.__module__} defines a part called {cls.__name__}, and so does "
                f"{known.__module__}: give yours another name"
            )
        _parts[cls.__name__] = cls
        for follower in _followers:
            follower(cls)

    @classmethod
    def registered(cls) -> dict[str, type]:
        """All parts of this family that are defined by now, by name, in alphabetical order.

        >>> from mmsalmask.masking import Strategy
        >>> "MeanFill" in Strategy.registered()
        True
        """
        return {name: part for name, part in sorted(_parts.items()) if issubclass(part, cls)}


def follow(follower: Callable[[type[Part]], Any]) -> Callable[[type[Part]], Any]:
    """Call a function with every part that is registered, and with every one that will be."""
    _followers.append(follower)
    for part in list(_parts.values()):
        follower(part)
    return follower


def load(package: str, path: Iterable[str]) -> None:
    """Import all modules of a package, so that the parts in them register."""
    for module in iter_modules(path):
        import_module(f"{package}.{module.name}")
