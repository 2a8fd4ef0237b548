"""Standard streams: prompts from stdin; streams that are closed, full or abandoned."""

import io
import json
import os
import subprocess
import sys

import pexpect
import pytest

from dflash_mlx.errors import OptionError, PromptError
from dflash_mlx.terminal.streams import read_prompt, stdin_has_text
from tests.equipment.program import process, program

QUESTION = "Write the 7 times table up to 5."
PROGRAM = f"{sys.executable} -m dflash_mlx"
GENERATE = [sys.executable, "-m", "dflash_mlx", "generate", "--model", "tiny"]


def shell(line):
    """Run a line of bash; the exit code is the first program's."""
    return subprocess.run(
        ["bash", "-c", f'{line}; exit "${{PIPESTATUS[0]}}"'],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", ("models", "--help", "--version", "generate hi -m 3 --json")
)
def test_a_reader_that_closes_the_pipe(arguments):
    run = shell(f"{PROGRAM} {arguments} | true")
    assert run.returncode == 141 and run.stderr == ""


@pytest.mark.full("programs")
def test_closed_streams():
    run = shell(f"{PROGRAM} generate --model tiny hi -m 3 <&-")
    assert run.returncode == 0 and run.stdout and "Generation: 3 tokens" in run.stderr
    run = shell(f"{PROGRAM} generate --model tiny hi -m 3 --json >&-")
    assert run.returncode == 0 and run.stderr == ""
    run = shell(f"{PROGRAM} generate --model tiny hi -m 3 --json 2>&-")
    assert run.returncode == 0 and json.loads(run.stdout)["generation_tokens"] == 3
    run = shell(f"{PROGRAM} chat --verbose F <&-")
    assert run.returncode == 0 and run.stderr == ""


@pytest.mark.full("programs")
@pytest.mark.skipif(sys.platform != "linux", reason="there is no /dev/full")
@pytest.mark.parametrize("more", ("", "--json"))
def test_a_full_disk(more):
    run = shell(f"{PROGRAM} generate --model tiny hi -m 3 {more} >/dev/full")
    assert run.returncode == 1
    assert run.stderr == "dflash-mlx: The disk that the output goes to is full.\n"


@pytest.mark.slow
def test_options_that_are_not_utf8():
    run = shell(f"{PROGRAM} generate --model tiny hi --system-prompt $'\\xff'")
    assert run.returncode == 2
    assert run.stderr.startswith("dflash-mlx: --system-prompt is not valid UTF-8.")
    run = shell(f"{PROGRAM} generate --model tiny hi --stop a --stop $'\\xff'")
    assert run.returncode == 2 and "--stop is not" in run.stderr


@pytest.mark.slow
def test_a_prompt_that_is_too_long_is_reported_once():
    run = shell(
        f"printf 'hello world %.0s' {{1..9000}} | {PROGRAM} generate --model tiny what"
    )
    assert run.stderr.count("\n") == 1 and "the model's context ends at" in run.stderr


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_closed_pipe_ends_generate_without_an_error(more):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as gone:
        run = subprocess.run(
            [*GENERATE, QUESTION, *more],
            stdin=subprocess.DEVNULL,
            stdout=gone,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert run.returncode == 141 and run.stderr == ""


class Typed(io.StringIO):
    """Stdin that is a terminal; reading it would block."""

    def isatty(self):
        return True

    def read(self, *_):
        raise AssertionError("read from a terminal")


@pytest.mark.parametrize(
    ("words", "option", "stdin", "prompt"),
    [
        (["Hello!"], None, "", "Hello!"),
        (["What", "is", "this?"], None, "", "What is this?"),
        ([], None, "notes\n", "notes\n"),
        (["-"], None, "notes\n", "notes\n"),
        ([], "-", "notes\n", "notes\n"),
        (["What is this?"], None, "notes\n", "notes\n\nWhat is this?"),
        ([], "What is this?", "notes\n", "notes\n\nWhat is this?"),
        (["-", "What?"], None, "notes\n", "notes\n\nWhat?"),
        (["-"], "What?", "notes\n", "notes\n\nWhat?"),
        (["Sum up:", "-"], None, "notes\n", "Sum up:\n\nnotes"),
        (
            ["Sum up:", "-", "Be", "brief."],
            None,
            "a\nb",
            "Sum up:\n\na\nb\n\nBe brief.",
        ),
        (["two\\nlines"], None, "", "two\nlines"),
        (["a"], None, "not\\nchanged", "not\\nchanged\n\na"),
        # Some editors begin a file with a byte order mark.
        (["a"], None, "\ufeffnotes", "notes\n\na"),
        ([], None, "\ufeffnotes", "notes"),
    ],
)
def test_the_prompt_joins_arguments_and_piped_text(
    words, option, stdin, prompt, monkeypatch
):
    monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
    assert read_prompt(words, option) == prompt


@pytest.mark.parametrize(
    ("words", "option", "error", "hint"),
    [
        ([], None, PromptError, "There is no prompt"),
        (["-"], None, PromptError, "nothing is piped"),
        (["-", "What?"], None, PromptError, "nothing is piped"),
        (["x"], "y", OptionError, "given twice"),
        (["-", "-"], None, OptionError, "piped text is given twice"),
        ([" "], None, PromptError, "empty"),
    ],
)
def test_a_terminal_is_never_read(words, option, error, hint, monkeypatch):
    monkeypatch.setattr(sys, "stdin", Typed())
    with pytest.raises(error, match=hint):
        read_prompt(words, option)


def test_stdin_that_is_closed_or_not_a_file(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    assert read_prompt(["Hello!"], None) == "Hello!"
    with pytest.raises(PromptError, match="no prompt"):
        read_prompt([], None)
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        assert not stdin_has_text()


@pytest.mark.full("programs")
def test_a_real_terminal_gets_an_answer_or_an_error():
    for arguments, words, code in (
        (["What is 12 + 34?", "-m", "40"], "46", 0),
        ([], "There is no prompt", 2),
        (["-"], "nothing is piped", 2),
    ):
        child = pexpect.spawn(GENERATE[0], [*GENERATE[1:], *arguments], timeout=30)
        output = child.read().decode()
        child.close()
        assert words in output and child.exitstatus == code, output


@pytest.mark.slow
def test_piped_text_and_a_question_reach_the_model():
    def tokens(run, *arguments, stdin=""):
        answer = run("generate", *arguments, "--json", "-m", "2", stdin=stdin).stdout
        return json.loads(answer)["prompt_tokens"]

    joined = tokens(program, "12 + 34\n\nWhat is this?")
    assert tokens(process, "What is this?", stdin="12 + 34\n") == joined
    assert tokens(process, "-p", "What is this?", stdin="12 + 34\n") == joined
    assert tokens(program, "What is this?") < joined


def test_a_backslash_can_stay_what_it_is(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    formula = r"\nabla in C:\new\table"
    assert read_prompt([formula], None, escapes=False) == formula
    assert read_prompt([formula], None) == "\nabla in C:\new\table"


@pytest.mark.slow
def test_an_option_turns_escapes_off():
    def tokens(*arguments):
        run = program("generate", "a\\nb", "--json", "-m", "1", *arguments)
        return json.loads(run.stdout)["prompt_tokens"]

    assert tokens("--no-escapes") > tokens() == tokens("--escapes")
