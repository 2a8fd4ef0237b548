"""The help of every command: its examples parse, and docs/cli.md is up to date."""

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dflash_mlx.cli import app, manual

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"


def test_the_manual_is_up_to_date():
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


def test_chat_has_the_options_of_generate():
    only_generate = {
        "words",
        "--prompt",
        "-p",
        "--prefill-response",
        "--ignore-chat-template",
        "--use-default-chat-template",
        "--escapes",
        "--no-escapes",
        "--prompt-cache-file",
        "--json",
        "--json-schema",
        "--grammar",
        "--regex",
    }
    missing = option_names("generate") - option_names("chat")
    assert missing == only_generate


def test_mlx_lm_flags_are_kept():
    from mlx_lm.generate import setup_arg_parser

    theirs = {name for a in setup_arg_parser()._actions for name in a.option_strings}
    # Images, and quantization with activations, are not supported.
    theirs -= {"-h", "--help", "--image", "--quantize-activations", "-qa"}
    assert theirs <= option_names("generate")


@pytest.mark.parametrize("name", manual.commands())
def test_every_option_has_a_sentence_of_help(name):
    for parameter in manual.commands()[name].params:
        help = parameter.help
        assert help.endswith(".") and help[0].isupper(), (parameter.name, help)
        assert len(help.split()) >= 3, (parameter.name, help)


@pytest.mark.slow
def test_help_shows_no_types_beside_flags_and_numbers():
    pages = [CliRunner().invoke(app, [name, "--help"]) for name in manual.commands()]
    for page in (*pages, CliRunner().invoke(app, ["--help"])):
        for word in ("<bool>", "<int>", "<float>"):
            assert page.exit_code == 0 and word not in page.output
