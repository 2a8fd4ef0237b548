"""The chat as its users have it: a real program in a pseudo-terminal, or in a pipe."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.equipment.teletype import (
    ALT_ENTER,
    CTRL_C,
    CTRL_D,
    TAB,
    UP,
    Teletype,
)

COUNT = "Count from 1 to 8."
VOWELS = "List the vowels with numbers."
# Answers without an end of their own, and a sign that the prompt is being read.
ENDLESS = """
import dataclasses
from dflash_mlx import Sampling
from dflash_mlx.terminal import answer_request, streams
from dflash_mlx.terminal.chat import session
from dflash_mlx.terminal.answer_options import Looks, ThinkingOptions

class Telling(answer_request.AnswerRequest):
    def stream(self, pair, tokenizer, prompt, cache, progress=None):
        def tell(done, total):
            if done > 8:
                streams.print_notice("reading")
            progress(done, total)
        yield from super().stream(pair, tokenizer, prompt, cache, tell)

never = Sampling(logit_bias={2: -100.0})
asked = Telling(max_tokens=-1, sampling=never, prefill_step_size=4, plain=True)
session.run(asked, ThinkingOptions(), Looks(markdown=False))
"""


@pytest.fixture
def home(tmp_path):
    """A home of the test's own, with what was measured in the session's."""
    (tmp_path / ".cache").symlink_to(Path.home() / ".cache")
    return tmp_path


@pytest.fixture
def chat(home):
    def open_chat(*arguments, script=None, env=None, **more):
        program = ("-c", script) if script else ("-m", "dflash_mlx", "chat", *arguments)
        env = {"HOME": str(home), "NO_COLOR": None} | (env or {})
        tty = Teletype(*program, env=env, cwd=home, **more)
        tty.wait(tty.ready)
        return tty

    return open_chat


def piped(home, stdin, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "dflash_mlx", "chat", *arguments],
        input=stdin,
        capture_output=True,
        env=dict(os.environ, HOME=str(home)),
        cwd=home,
    )


def test_a_conversation_with_every_command(chat, home):
    with chat("--system-prompt", "Be brief.", "-m", "60", columns=100, rows=30) as tty:
        tty.enter("/help", "are /quit, /reset, /help.")
        tty.enter("/help undo", "/undo: take back")
        tty.enter("/stats", "There are no answers yet.")
        tty.send("Hello!")
        tty.send(VOWELS)
        tty.enter("/stats", "Session: 2 answers")
        tty.enter("/undo", f"Taken back: {VOWELS}")
        tty.send("/retry")
        tty.send("/edit " + VOWELS)
        tty.enter("/set", "how reasoning is shown")
        tty.enter("/set temp 0.7", "temp is 0.7.")
        tty.enter("/set temp -1", "temp must be 0 or more")
        tty.enter("/set temp 0", "temp is 0.")
        tty.enter("/plain", "Decoding plainly: drafting is off.")
        tty.enter("/retry", "plain (drafting is off)")
        tty.enter("/plain off", "Drafting.")
        tty.enter("/system", "System prompt: Be brief.")
        tty.enter("/save talk.json", "Saved in talk.json.")
        tty.enter("/system -", "There is no system prompt.")
        tty.enter("/reset", "Forgotten.")
        tty.enter("/load talk.json", "Loaded 2 messages from talk.json.")
        tty.enter("/system", "System prompt: Be brief.")
        tty.send("//vowels please")
        tty.type("/rset\r")
        tty.wait("Did you mean /reset?")
        tty.wait(">> /rset")  # given back to edit
        tty.type(CTRL_C)
        tty.wait(tty.ready)
        tty.type("/edit\r")
        tty.wait(">> /vowels please")
        tty.type(CTRL_C)
        tty.wait(tty.ready)
        tty.type(CTRL_C)
        tty.wait("Nothing is changed.")
        tty.wait(tty.ready)
        tty.enter("h", "/quit leave")
        tty.enter("r", "Forgotten.")
        tty.type("q\r")
        assert tty.end() == 0
    told = json.loads((home / "talk.json").read_text())
    assert [each["content"] for each in told["messages"]][0] == VOWELS
    assert told["system"] == "Be brief." and b"Traceback" not in tty.raw


@pytest.mark.slow
def test_ctrl_c_stops_the_answer_and_a_follow_up_remembers(chat, home):
    with chat(script=ENDLESS) as tty:
        tty.type("Count from 1 to 300.\r")
        tty.wait("8, 9, 10, 11,")
        tty.type(CTRL_C)
        tty.wait("(stopped)")
        answer = tty.text()
        assert "^C" not in answer and "Traceback" not in answer
        tty.wait(tty.ready)
        tty.type("not sent")
        tty.wait(">> not sent")
        tty.type(CTRL_C)  # clears the line
        tty.wait(tty.ready)
        assert "Ctrl-D or /quit leaves." not in tty.text()
        tty.type(CTRL_C)
        tty.wait("Ctrl-D or /quit leaves.")
        tty.wait(tty.ready)
        tty.enter("/set max_tokens 5", "max_tokens is 5.")
        tty.send("And then?")
        # All of the first turn but a word at its end was in the caches.
        tty.enter("/stats", "Session: 2 answers")
        told = tty.text().split("Last answer: ")[1]
        cached, whole = map(int, told.split(" prompt tokens cached")[0].split()[-3::2])
        assert whole > cached > 40
        tty.enter("/save talk.json", "Saved")
        tty.leave()
    messages = json.loads((home / "talk.json").read_text())["messages"]
    assert messages[1]["content"].startswith("1, 2, 3,") and len(messages) == 4


@pytest.mark.slow
def test_what_is_typed_during_an_answer_waits_unseen(chat):
    with chat("-m", "200", "--plain") as tty:
        tty.type("Count from 1 to 60.\r")
        tty.wait("1, 2, 3,")
        tty.type("later")
        tty.wait(">> later")
        answer = tty.text().split("1, 2, 3,")[1].split("tokens/s")[0]
        assert "later" not in answer
        tty.type(CTRL_C)
        tty.leave()


@pytest.mark.slow
def test_ctrl_c_while_the_prompt_is_read(chat):
    with chat(script=ENDLESS) as tty:
        tty.enter("/set max_tokens 4", "max_tokens is 4.")
        tty.type("word " * 400 + "\r")
        tty.wait("reading")
        tty.type(CTRL_C)
        tty.wait("(stopped before the answer began; /retry asks again)")
        tty.wait(tty.ready)
        tty.send("/retry")
        tty.enter("/undo", "Taken back: word word")
        tty.enter("/undo", "Nothing was asked yet.")
        tty.leave()


@pytest.mark.slow
def test_a_paste_is_one_message(chat, home):
    lines = [f"\t{n}: {'x' * (n % 2)}" for n in range(200)]
    with chat("-m", "3") as tty:
        tty.wait(lambda: b"\x1b[?2004h" in tty.raw)
        tty.type("\x1b[200~" + "\r\n".join(lines) + "\x1b[201~")
        tty.wait("199:")
        tty.send("")
        tty.type("/paste\r")
        tty.wait("Ctrl-D on a line of its own sends")
        tty.wait("..")
        tty.type("\r".join(lines) + "\r")
        tty.wait(lambda: tty.text().count("199:") >= 2)
        tty.type(CTRL_D)
        tty.wait(lambda: tty.text().count("prompt tokens cached") == 2)
        tty.wait(tty.ready)
        tty.enter("/save talk.json", "Saved")
        tty.leave()
    messages = json.loads((home / "talk.json").read_text())["messages"]
    asked = [each["content"] for each in messages if each["role"] == "user"]
    assert asked == ["\n".join(lines)] * 2


@pytest.mark.slow
def test_lines_of_one_message(chat, home):
    with chat("-m", "3") as tty:
        tty.type("one" + ALT_ENTER + "two\\\r" + "three")
        tty.wait("three")
        tty.send("")
        tty.enter("/save talk.json", "Saved")
        tty.type("/sa" + TAB + "ta" + TAB + "\r")
        tty.wait(lambda: tty.text().count("Saved in talk.json.") == 2)
        tty.leave()
    messages = json.loads((home / "talk.json").read_text())["messages"]
    assert messages[0]["content"] == "one\ntwo\nthree"


@pytest.mark.slow
def test_wide_characters_in_forty_columns_and_a_resize(chat, home):
    text = "naïve 日本語 🦎 и кириллица " * 2
    size = {"columns": 40, "rows": 12}
    with chat("-m", "8", "--block-size", "4", **size) as tty:
        tty.type(text)
        tty.wait(lambda: tty.text().replace(" ", "").count("кириллица") == 2)
        tty.resize(100, 30)
        tty.wait(lambda: any("кириллица naïve" in line for line in tty.lines()))
        tty.resize(40, 12)
        tty.send("")
        tty.send(VOWELS)
        assert all(len(line) <= 40 for line in tty.lines())
        told = tty.text()
        assert told.count("tokens/s") == 2 and "tokens per round" in told
        tty.enter("/help", "are /quit, /reset, /help.")
        tty.enter("/save talk.json", "Saved")
        tty.leave()
    messages = json.loads((home / "talk.json").read_text())["messages"]
    assert messages[0]["content"] == text


@pytest.mark.slow
def test_the_history_lasts(chat, home):
    with chat("-m", "2") as tty:
        tty.send("first 🦎")
        tty.send("second")
        tty.leave()
    file = home / ".local/share/dflash-mlx/history.jsonl"
    assert file.stat().st_mode & 0o777 == 0o600
    with chat("-m", "2") as tty:
        tty.type(UP)
        tty.wait(">> second")
        tty.type(UP)
        tty.wait(">> first 🦎")
        tty.send("")
        tty.leave()
    with file.open("ab") as broken:
        broken.write(b'"half')
    content = file.read_bytes()
    with chat("-m", "2") as tty:
        assert "history.jsonl.broken" in tty.text().replace(" ", "")
        tty.type(UP)
        tty.wait(">> first 🦎")
        tty.type(CTRL_C)
        tty.wait(tty.ready)
        tty.leave()
    assert file.with_name("history.jsonl.broken").read_bytes() == content


def styles(raw):
    """Whether text is styled: any SGR but the plain one."""
    codes = re.findall(rb"\x1b\[([0-9;]*)m", raw)
    return any(code not in (b"", b"0") for code in codes)


@pytest.mark.slow
def test_colour_only_where_it_is_wanted(chat):
    for env, wanted in (({}, True), ({"NO_COLOR": "1"}, False)):
        with chat("-m", "2", env=env) as tty:
            tty.enter("/set temp -1", "temp must be")
            tty.send("Hello!")
            tty.leave()
        assert styles(tty.raw) == wanted


@pytest.mark.slow
def test_a_dumb_terminal_gets_no_escape_code(chat, home):
    with chat("-m", "40", env={"TERM": "dumb"}) as tty:
        tty.send(VOWELS)
        tty.type("two\\\r")
        tty.wait("..")
        tty.send("lines")
        tty.type(CTRL_C)
        tty.wait("Ctrl-D or /quit leaves.")
        tty.wait(tty.ready)
        tty.type("/paste\rall\rof it\r" + CTRL_D)
        tty.wait(lambda: tty.text().count("prompt tokens cached") == 3)
        tty.wait(tty.ready)
        tty.enter("/edit", "needs the new text here")
        tty.enter("/save talk.json", "Saved")
        tty.leave()
    assert b"\x1b" not in tty.raw and b"1. a\r\n2. e" in tty.raw
    messages = json.loads((home / "talk.json").read_text())["messages"]
    asked = [each["content"] for each in messages if each["role"] == "user"]
    assert asked == [VOWELS, "two\nlines", "all\nof it"]


@pytest.mark.slow
def test_answers_go_to_a_file_and_the_prompt_to_the_terminal(chat, home):
    shell = "import subprocess, sys; subprocess.run([sys.executable, '-m', 'dflash_mlx'"
    script = shell + ", 'chat'], stdout=open('out', 'w'))"
    with chat(script=script) as tty:
        tty.send(VOWELS)
        tty.leave()
    assert (home / "out").read_text() == "1. a\n2. e\n3. i\n4. o\n5. u\n"


def test_a_pipe_has_a_message_a_line(home):
    script = f"{VOWELS}\r\n\n/nonesuch\nq\nnever read\n"
    run = piped(home, script.encode())
    assert run.returncode == 0
    assert run.stdout == b"1. a\n2. e\n3. i\n4. o\n5. u\n"
    told = run.stderr.decode()
    assert "There is no command /nonesuch." in told and "Traceback" not in told
    assert "\x1b" not in told and told.count("tokens per round") == 1
    assert not (home / ".local").exists()


@pytest.mark.slow
def test_a_pipe_of_other_bytes_goes_on(home):
    run = piped(home, b"\xff\xfe\n" + VOWELS.encode(), "--verbose", "F")
    assert run.returncode == 0 and run.stdout.startswith(b"1. a")
    assert run.stderr.decode().splitlines() == [
        "The message is not valid UTF-8. Convert it, for example with iconv."
    ]
    run = piped(home, f"/paste\n{VOWELS}\nq\n".encode(), "-m", "2")
    assert run.returncode == 0 and run.stderr.count(b"prompt tokens cached") == 1
