"""Copies of functions and classes that know other functions by global names.

So a layer of mlx-lm can call our function where its file calls another one, and no
module, class or function of anybody else changes.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType


def rebound(function: Callable, **names: Callable) -> Callable:
    """A copy of `function` to which other functions go by some global names."""
    copied = FunctionType(
        function.__code__,
        function.__globals__ | names,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copied.__kwdefaults__ = function.__kwdefaults__
    return copied


def known_as(kind: type, name: str) -> Callable | None:
    """The function that a class's methods know by a global name; None if none does."""
    for base in kind.__mro__:
        for value in vars(base).values():
            if not isinstance(value, FunctionType):
                continue
            # An attribute may have the name as well.
            if name in value.__code__.co_names and name in value.__globals__:
                return value.__globals__[name]
    return None


def rebound_class(kind: type, **names: Callable) -> type | None:
    """A subclass whose methods know other functions by some global names of their
    file; None if no method uses one of the names."""
    # Of each name its last definition: what a class overrides stays overridden.
    defined = {k: v for base in reversed(kind.__mro__) for k, v in vars(base).items()}
    methods = {
        key: rebound(value, **names)
        for key, value in defined.items()
        if isinstance(value, FunctionType) and names.keys() & {*value.__code__.co_names}
    }
    return type(kind.__name__, (kind,), methods) if methods else None
