"""Copies of functions and classes in which a global name means another function.

A copied layer of mlx-lm calls our function where its file calls one of mlx-lm's. No
module, class or function of mlx-lm is changed.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType


def rebind(function: Callable, **names: Callable) -> Callable:
    """Copy a function with other values for some global names.

    Args:
        function: A Python function.
        names: The new value of each global name.
    """
    copied = FunctionType(
        function.__code__,
        function.__globals__ | names,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copied.__kwdefaults__ = function.__kwdefaults__
    return copied


def find_global(kind: type, name: str) -> Callable | None:
    """The value of a global name that a class's methods use; None if none uses it."""
    for base in kind.__mro__:
        for value in vars(base).values():
            if not isinstance(value, FunctionType):
                continue
            # co_names also has the names of attributes.
            if name in value.__code__.co_names and name in value.__globals__:
                return value.__globals__[name]
    return None


def rebind_class(kind: type, **names: Callable) -> type | None:
    """Make a subclass whose methods have other values for some global names.

    Args:
        kind: The class.
        names: The new value of each global name.

    Returns:
        The subclass, or None if no method uses one of the names.
    """
    # The last definition of each attribute, so that overridden methods are skipped.
    defined = {k: v for base in reversed(kind.__mro__) for k, v in vars(base).items()}
    methods = {
        key: rebind(value, **names)
        for key, value in defined.items()
        if isinstance(value, FunctionType) and names.keys() & {*value.__code__.co_names}
    }
    return type(kind.__name__, (kind,), methods) if methods else None
