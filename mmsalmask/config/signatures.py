"""Find which keywords a class or a function takes."""

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable
from typing import NamedTuple

import torch

_MERGE_KEYS = frozenset({"type", "_delete_", "_scope_"})


class Parameters(NamedTuple):
    """What a dict may hold: ``names``, and anything else too if ``free``; ``owner`` receives it."""

    owner: str
    names: tuple[str, ...]
    free: bool = False

    def accepts(self, key: str) -> bool:
        return self.free or key in self.names or key in _MERGE_KEYS


@functools.cache
def parameters_of(part: Callable) -> Parameters:
    """Read off a class or function which keywords it takes.

    The ``**kwargs`` of an ``__init__`` are followed to its base classes if it passes them on, and
    to the names that it takes out of them. If they go anywhere else, every name is accepted.
    """
    owner = getattr(part, "__name__", type(part).__name__)
    if not inspect.isclass(part) or part.__init__ is object.__init__:
        try:
            names, free = _keywords(inspect.signature(part))
        except (ValueError, TypeError):
            return Parameters(owner, (), free=True)
        return Parameters(owner, names, free)
    names: dict[str, None] = {}
    skip_to = None
    for base in part.__mro__:
        if base in (object, torch.nn.Module):
            break
        if skip_to is not None:
            skip_to = None if base.__name__ == skip_to else skip_to
            continue
        if "__init__" not in vars(base):
            continue
        try:
            own, free = _keywords(inspect.signature(vars(base)["__init__"]))
        except (ValueError, TypeError):
            return Parameters(owner, tuple(names), free=True)
        names |= dict.fromkeys(own)
        if not free:
            break
        taken, handed_on, after = _fate_of_kwargs(vars(base)["__init__"])
        names |= dict.fromkeys(taken)
        if not handed_on:
            return Parameters(owner, tuple(names), free=True)
        skip_to = after if after != base.__name__ else None
    return Parameters(owner, tuple(names))


def _keywords(signature: inspect.Signature) -> tuple[tuple[str, ...], bool]:
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    kinds = {name: parameter.kind for name, parameter in signature.parameters.items()}
    names = tuple(name for name, kind in kinds.items() if kind in named and name != "self")
    return names, inspect.Parameter.VAR_KEYWORD in kinds.values()


def _fate_of_kwargs(init: Callable) -> tuple[list[str], bool, str | None]:
    """Read where the ``**kwargs`` of an ``__init__`` go.

    Returns:
        The names it takes out of them; whether every other one reaches a base class's ``__init__``
        and nothing else; and ``Class`` where that is called as ``super(Class, self).__init__``.
    """
    try:
        definition = ast.parse(textwrap.dedent(inspect.getsource(init))).body[0]
    except (OSError, TypeError, SyntaxError):
        return [], False, None
    if not isinstance(definition, ast.FunctionDef) or definition.args.kwarg is None:
        return [], False, None
    parents = {child: node for node in ast.walk(definition) for child in ast.iter_child_nodes(node)}
    taken, to_base, elsewhere, after = [], False, False, None
    for node in ast.walk(definition):
        if not isinstance(node, ast.Name) or node.id != definition.args.kwarg.arg:
            continue
        parent = parents[node]
        name = _name_taken(parent, parents.get(parent))
        if name is not None:
            taken.append(name)
        elif isinstance(parent, ast.keyword) and _is_init(parents[parent].func):
            to_base, after = True, _class_in_super(parents[parent].func)
        elif not (isinstance(parent, ast.Attribute) and parent.attr == "update"):
            elsewhere = True
    return taken, to_base and not elsewhere, after


def _is_init(function: ast.AST) -> bool:
    return isinstance(function, ast.Attribute) and function.attr == "__init__"


def _class_in_super(function: ast.Attribute) -> str | None:
    arguments = getattr(function.value, "args", [])
    return arguments[0].id if arguments and isinstance(arguments[0], ast.Name) else None


def _name_taken(parent: ast.AST, grandparent: ast.AST | None) -> str | None:
    """``kwargs.pop('x')``, ``kwargs['x']`` and ``'x' in kwargs`` → ``x``."""
    constant = None
    if isinstance(parent, ast.Subscript):
        constant = parent.slice
    elif isinstance(parent, ast.Compare):
        constant = parent.left
    elif isinstance(parent, ast.Attribute) and parent.attr in ("pop", "get", "setdefault"):
        constant = grandparent.args[0] if getattr(grandparent, "args", None) else None
    value = getattr(constant, "value", None)
    return value if isinstance(value, str) else None
