"""The chat in other terminals, in a pipe and with its answers in a file."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests.equipment.program import process
from tests.equipment.teletype import CTRL_C, CTRL_D, STATUS

VOWELS = "List the vowels with numbers."


def piped(home, stdin, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "dflash_mlx", "chat", *arguments],
        input=stdin,
        capture_output=True,
        env=dict(os.environ, HOME=str(home)),
        cwd=home,
    )


def has_styles(raw):
    """Whether an escape code styles text."""
    codes = re.findall(rb"\x1b\[([0-9;]*)m", raw)
    return any(code not in (b"", b"0") for code in codes)


@pytest.mark.full("programs")
def test_no_color_turns_colours_off(chat):
    for env, wanted in (({}, True), ({"NO_COLOR": "1"}, False)):
        with chat("-m", "2", env=env) as tty:
            tty.enter("/set temp -1", "temp must be")
            tty.send("Hello!")
            tty.leave()
        assert has_styles(tty.raw) == wanted


@pytest.mark.full("programs")
def test_a_dumb_terminal_gets_no_escape_code(chat, home):
    with chat("-m", "40", env={"TERM": "dumb"}) as tty:
        tty.send(VOWELS)
        tty.type("two\\\r")
        tty.wait("..")
        tty.send("lines")
        tty.type(CTRL_C)
        tty.wait("Press Ctrl-D or type /quit to quit.")
        tty.wait(tty.ready)
        tty.type("/paste\rall\rof it\r" + CTRL_D)
        tty.wait(lambda: tty.text().count(STATUS) == 3)
        tty.wait(tty.ready)
        tty.enter("/edit", "needs the new text, because there is no line editor")
        tty.enter("/save talk.json", "Saved")
        tty.leave()
    assert b"\x1b" not in tty.raw and b"1. a\r\n2. e" in tty.raw
    messages = json.loads((home / "talk.json").read_text())["messages"]
    questions = [each["content"] for each in messages if each["role"] == "user"]
    assert questions == [VOWELS, "two\nlines", "all\nof it"]


@pytest.mark.slow
def test_answers_go_to_a_file_and_the_prompt_to_the_terminal(chat, home):
    shell = "import subprocess, sys; subprocess.run([sys.executable, '-m', 'dflash_mlx'"
    script = shell + ", 'chat'], stdout=open('out', 'w'))"
    with chat(script=script) as tty:
        tty.send(VOWELS)
        tty.leave()
    assert (home / "out").read_text() == "1. a\n2. e\n3. i\n4. o\n5. u\n"


@pytest.mark.slow
def test_each_line_of_a_pipe_is_a_message(home):
    script = f"{VOWELS}\r\n\n/nonesuch\nq\nnever read\n"
    run = piped(home, script.encode())
    assert run.returncode == 0
    assert run.stdout == b"1. a\n2. e\n3. i\n4. o\n5. u\n"
    errors = run.stderr.decode()
    assert "There is no command /nonesuch." in errors and "Traceback" not in errors
    assert "\x1b" not in errors and errors.count("tok/s") == 1
    assert not (home / ".local").exists()


@pytest.mark.full("programs")
def test_invalid_bytes_in_a_pipe_are_skipped(home):
    run = piped(home, b"\xff\xfe\n" + VOWELS.encode(), "--verbose", "F")
    assert run.returncode == 0 and run.stdout.startswith(b"1. a")
    assert run.stderr.decode().splitlines() == [
        "The message is not valid UTF-8. Convert it, for example with iconv."
    ]
    run = piped(home, f"/paste\n{VOWELS}\nq\n".encode(), "-m", "2")
    assert run.returncode == 0 and run.stderr.count(b" tok") == 2


@pytest.mark.full("programs")
def test_a_letter_that_the_encoding_lacks_is_replaced():
    options = ("--temp", "9", "--seed", "1", "-m", "60", "--verbose", "F")
    run = process(
        "generate", "Count from 1 to 30.", *options, env={"PYTHONIOENCODING": "ascii"}
    )
    assert run.returncode == 0 and run.stderr == "" and "?" in run.stdout
