"""Dataclasses as groups of options: names, defaults, and how values are written."""

from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from dflash_mlx.bench.settings import Settings
from dflash_mlx.cli import manual
from dflash_mlx.cli.fields import Panel, with_fields
from dflash_mlx.terminal.answer_options import (
    AnswerOptions,
    SamplingOptions,
    Shorthand,
    ThinkingOptions,
)
from dflash_mlx.terminal.benchmark_options import BenchmarkOptions
from dflash_mlx.terminal.chat.looks import Looks
from dflash_mlx.train.options import TrainOptions


@dataclass(frozen=True)
class Group:
    size: Annotated[int, typer.Option(help="x")] = 3
    name: Annotated[str | None, typer.Option("--called")] = None


def run(function, *arguments):
    app = typer.Typer()
    app.command()(with_fields(function))
    return CliRunner().invoke(app, arguments)


def test_a_dataclass_stands_for_its_fields():
    def show(word: str, group: Group, loud: bool = False):
        print(word, group, loud)

    done = run(show, "hi", "--called", "x", "--loud")
    assert done.output.strip() == f"hi {Group(3, 'x')} True"
    assert run(show, "hi", "--nonesuch").exit_code == 2


def test_display_options_are_parsed_beside_the_others():
    def show(
        options: AnswerOptions,
        shorthand: Shorthand,
        sampling: SamplingOptions,
        thinking: ThinkingOptions,
        looks: Looks,
    ):
        print(thinking.thinking, looks.reasoning, looks.markdown, looks.show_drafts)

    done = run(show, "--reasoning", "fold", "--no-markdown", "--thinking", "off")
    assert done.output.split() == ["off", "fold", "False", "False"]
    assert "must be one of show, fold, hide" in str(
        run(show, "--reasoning", "x").exception
    )
    assert "must be one of on, off, auto" in str(run(show, "--thinking", "x").exception)
    assert run(show, "--load", "nowhere.json").exit_code == 2


@dataclass(frozen=True)
class Values:
    words: Annotated[tuple[str, ...], "Some words."] = ("a",)
    sizes: Annotated[tuple[int | None, ...], "Some sizes."] = (None, 2)
    shares: Annotated[tuple[float, ...] | None, "Some shares."] = None
    table: Annotated[dict[str, Any], "A table."] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        ([], Values()),
        (["--words", "b,c", "--words", "b"], Values(words=("b", "c"))),
        (["--words", ""], Values()),
        (["--size", "4,auto, 8"], Values(sizes=(4, None, 8))),
        (["--shares", "0,0.5"], Values(shares=(0.0, 0.5))),
        (["--shares", ""], Values()),
        (["--table", '{"a": 1}'], Values(table={"a": 1})),
    ],
)
def test_tuples_are_written_with_commas_and_dicts_as_json(arguments, values):
    found = []

    def show(values: Annotated[Values, Panel("Values", {"sizes": "--size -s"})]):
        found.append(values)

    done = run(show, *arguments)
    assert done.exit_code == 0 and found == [values], done.output
    for wrong, message in (
        (["-s", "4,x"], "--size must be numbers like auto,2,4, but is '4,x'"),
        (["--shares", "auto"], "--shares must be numbers"),
        (["--table", "[1]"], "--table must be a JSON object"),
    ):
        assert message in str(run(show, *wrong).exception)


@pytest.mark.parametrize(
    ("command", "kind"),
    [("benchmark", BenchmarkOptions), ("benchmark", Settings), ("train", TrainOptions)],
)
def test_the_command_line_has_the_defaults_of_python(command, kind, monkeypatch):
    """A bare command builds the dataclass that Python builds without arguments."""
    found = {}
    module = f"dflash_mlx.terminal.{command}"
    monkeypatch.setattr(
        f"{module}.run", lambda *args, **_: found.update(enumerate(args))
    )
    required = ["--data", "x", "--out", "y"] if command == "train" else []
    manual.commands()[command].main([*required], standalone_mode=False)
    assert kind() in found.values()
