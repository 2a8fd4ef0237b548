"""Help: every command has examples that parse, and docs/cli.md is as they say."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from dflash_mlx.cli import manual
from dflash_mlx.cli.app import with_fields
from dflash_mlx.terminal.answer_options import (
    AnswerOptions,
    Looks,
    SamplingOptions,
    Shorthand,
    ThinkingOptions,
)

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"


def test_the_manual_is_fresh():
    assert PAGE.read_text() == manual.manual(), "run `make docs`"


@pytest.mark.parametrize("name", manual.commands())
def test_examples_parse(name):
    command = manual.commands()[name]
    lines = manual.examples(command)
    assert lines, f"{name} has no example"
    for line in lines:
        words = shlex.split(line.rpartition(" | ")[2])
        assert words[:2] == ["dflash-mlx", name]
        context = command.make_context(name, words[2:])
        assert not context.args


def option_names(command: str) -> set[str]:
    parameters = manual.commands()[command].params
    return {name for each in parameters for name in (*each.opts, *each.secondary_opts)}


def test_chat_has_what_generate_has():
    one_shot = {
        "words",
        "--prompt",
        "-p",
        "--prefill-response",
        "--ignore-chat-template",
        "--use-default-chat-template",
        "--prompt-cache-file",
        "--json",
    }
    lacking = option_names("generate") - option_names("chat")
    # A chat's switches for reasoning come with what shows it.
    assert lacking - {"--thinking", "--reasoning-effort"} == one_shot


def test_mlx_lm_flags_are_kept():
    from mlx_lm.generate import setup_arg_parser

    theirs = {name for a in setup_arg_parser()._actions for name in a.option_strings}
    # Pictures, and what is quantized with the activations, are not ours.
    theirs -= {"-h", "--help", "--image", "--quantize-activations", "-qa"}
    assert theirs <= option_names("generate")


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


def test_what_chat_will_take_stands_beside_the_rest():
    def show(
        asked: AnswerOptions,
        short: Shorthand,
        sampling: SamplingOptions,
        thinking: ThinkingOptions,
        looks: Looks,
    ):
        print(thinking.thinking, looks.reasoning, looks.markdown, looks.show_drafts)

    done = run(show, "--reasoning", "fold", "--no-markdown", "--thinking", "off")
    assert done.output.split() == ["off", "fold", "False", "False"]
    assert "must be show, fold, hide" in str(run(show, "--reasoning", "x").exception)
    assert "must be on, off, auto" in str(run(show, "--thinking", "x").exception)
    assert run(show, "--load", "nowhere.json").exit_code == 2
