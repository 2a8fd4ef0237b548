"""Dataclasses as groups of command-line options: one option for each field.

Owns how a field becomes an option, and how the option's text becomes the field's value.
Does not know any command.
"""

from __future__ import annotations

import copy
import functools
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from typer.models import OptionInfo

from ..terminal.options import option, parse_numbers, parse_object, split_names
from ..terminal.shell_completion import Completer

# What --help shows in place of a value.
PLACEHOLDERS = {int: "N", float: "X", Path: "PATH"}


@dataclass(frozen=True)
class Panel:
    """How a dataclass whose fields carry only help texts appears in --help.

    A command marks its parameter with it: Annotated[TrainOptions, Panel("Training")].

    Args:
        title: Title of the panel with its options.
        names: Option names by field, where they differ from the field's name.
        completions: Shell completions by field.
    """

    title: str
    names: Mapping[str, str] = field(default_factory=dict)
    completions: Mapping[str, Completer] = field(default_factory=dict)

    def option(self, name: str, help: str) -> OptionInfo:
        """The typer option of a field."""
        names = self.names.get(name, f"--{name.replace('_', '-')}")
        completion = self.completions.get(name)
        return option(names, help, self.title, autocompletion=completion)


@dataclass(frozen=True)
class Group:
    """A dataclass that stands for several parameters of a command.

    Args:
        kind: The dataclass.
        parameters: Its fields, as typer reads them.
        parsers: By field, what turns the value from typer into the field's value.
    """

    kind: type
    parameters: list[inspect.Parameter]
    parsers: dict[str, Callable[[Any], Any]]

    def build(self, values: dict[str, Any]) -> Any:
        """The dataclass from a command's values, which are removed from `values`."""
        taken = {each.name: values.pop(each.name) for each in self.parameters}
        parse = self.parsers
        return self.kind(
            **{n: parse[n](v) if n in parse else v for n, v in taken.items()}
        )


def with_fields(function: Callable) -> Callable:
    """The function, with a keyword parameter for each field of its dataclass
    parameters in place of these."""
    groups: dict[str, Group] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        kind, *marks = split_annotated(parameter.annotation)
        if is_dataclass(kind):
            group = group_of(kind, *marks)
            groups[parameter.name] = group
            parameters += group.parameters
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
    parameters = [with_placeholder(each) for each in parameters]

    @functools.wraps(function)
    def call(**values):
        values = {name: with_home(value) for name, value in values.items()}
        built = {name: group.build(values) for name, group in groups.items()}
        return function(**values, **built)

    # Typer reads both.
    call.__signature__ = inspect.Signature(parameters)
    call.__annotations__ = {each.name: each.annotation for each in parameters}
    return call


def with_home(value: Any) -> Any:
    """A path with the home folder in place of ~, which a shell leaves in --out=~/x.
    Other values are returned as they are."""
    if isinstance(value, list):
        return [with_home(each) for each in value]
    return Path(os.path.expanduser(value)) if isinstance(value, Path) else value


def group_of(kind: type, panel: Panel | None = None) -> Group:
    """The options of a dataclass.

    Args:
        kind: A dataclass. Each field is annotated with a typer option, or with a help
            text, which makes an option in `panel`.
        panel: Where the options of help texts appear.
    """
    hints = get_type_hints(kind, include_extras=True)
    group = Group(kind, [], {})
    for each in fields(kind):
        hint, info = split_annotated(hints[each.name])
        if isinstance(info, str):
            info = panel.option(each.name, info)
        name = option_name(info) or f"--{each.name}"
        typed, default, parse = written_form(hint, each.default, name)
        if parse is not None:
            group.parsers[each.name] = parse
        group.parameters.append(
            inspect.Parameter(
                each.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=default,
                annotation=Annotated[typed, info],
            )
        )
    return group


def option_name(info: OptionInfo) -> str:
    """The first long name of an option, or "" if typer derives it from the field."""
    # typer.Option keeps the first name as its default until a command is built.
    names = [info.default, *(info.param_decls or ())]
    return next((n for n in names if isinstance(n, str) and n.startswith("--")), "")


def written_form(
    hint: Any, default: Any, name: str
) -> tuple[Any, Any, Callable[[Any], Any] | None]:
    """How a field's value is written on the command line.

    A dict is written as a JSON object, a tuple with commas; names may also be given by
    repeating the option. Other types are as typer has them.

    Args:
        hint: The field's type.
        default: Its default.
        name: The name of its option.

    Returns:
        The type and the default for typer, and the function that parses what typer
        returns, or None.
    """
    kind = without_none(hint)
    if get_origin(kind) is dict:
        return str | None, None, lambda text: parse_object(text, name)
    if get_origin(kind) is not tuple:
        return hint, default, None
    item = get_args(kind)[0]
    if item is str:
        names = list(default) or None
        return list[str] | None, names, lambda texts: split_names(texts) or default
    number, auto = without_none(item), NoneType in get_args(item)

    def parse(text):
        if not text and default is None:
            return None
        return parse_numbers(text, name, number, auto)

    return str | None, default and ",".join(map(number_text, default)), parse


def number_text(value: float | None) -> str:
    """A number of a default, or "auto" for None."""
    return "auto" if value is None else f"{value:g}"


def without_none(hint: Any) -> Any:
    """The type T of T | None."""
    kinds = [kind for kind in get_args(hint) if kind is not NoneType]
    return kinds[0] if NoneType in get_args(hint) else hint


def split_annotated(annotation: Any) -> tuple[Any, ...]:
    """The type of Annotated[type, ...], then the rest."""
    if get_origin(annotation) is Annotated:
        return get_args(annotation)
    return (annotation,)


def with_placeholder(parameter: inspect.Parameter) -> inspect.Parameter:
    """The parameter, with what --help shows in place of its value."""
    kind, *infos = split_annotated(parameter.annotation)
    info = next((each for each in infos if isinstance(each, OptionInfo)), None)
    if info is None or info.metavar is not None:
        return parameter
    info = copy.copy(info)
    info.metavar = PLACEHOLDERS.get(without_none(kind), "TEXT")
    return parameter.replace(annotation=Annotated[kind, info])
