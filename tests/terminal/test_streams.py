"""The program among odd streams: closed ones, full ones, readers that leave."""

import json
import subprocess
import sys

import pytest

PROGRAM = f"{sys.executable} -m dflash_mlx"


def shell(line):
    """A line of bash; the exit code is that of its first program."""
    return subprocess.run(
        ["bash", "-c", f'{line}; exit "${{PIPESTATUS[0]}}"'],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "arguments", ("models", "--help", "--version", "generate hi -m 3 --json")
)
def test_a_reader_that_leaves(arguments):
    run = shell(f"{PROGRAM} {arguments} | true")
    assert run.returncode == 141 and run.stderr == ""


def test_closed_streams():
    run = shell(f"{PROGRAM} generate hi -m 3 <&-")
    assert run.returncode == 0 and run.stdout and "Generation: 3 tokens" in run.stderr
    run = shell(f"{PROGRAM} generate hi -m 3 --json >&-")
    assert run.returncode == 0 and run.stderr == ""
    run = shell(f"{PROGRAM} generate hi -m 3 --json 2>&-")
    assert run.returncode == 0 and json.loads(run.stdout)["generation_tokens"] == 3
    run = shell(f"{PROGRAM} chat --verbose F <&-")
    assert run.returncode == 0 and run.stderr == ""


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /dev/full")
@pytest.mark.parametrize("more", ("", "--json"))
def test_a_full_disk(more):
    run = shell(f"{PROGRAM} generate hi -m 3 {more} >/dev/full")
    assert run.returncode == 1
    assert run.stderr == "dflash-mlx: The disk that the output goes to is full.\n"


def test_bytes_that_are_no_text():
    run = shell(f"{PROGRAM} generate hi --system-prompt $'\\xff'")
    assert run.returncode == 2
    assert run.stderr.startswith("dflash-mlx: --system-prompt is not valid UTF-8.")
    run = shell(f"{PROGRAM} generate hi --stop a --stop $'\\xff'")
    assert run.returncode == 2 and "--stop is not" in run.stderr


def test_a_prompt_that_is_too_long_is_said_once():
    run = shell(f"printf 'hello world %.0s' {{1..9000}} | {PROGRAM} generate what")
    assert run.stderr.count("\n") == 1 and "the model's context ends at" in run.stderr
