"""The chat as a program, in a pseudo-terminal or a pipe."""

import json
import re
import time

import pytest

from tests.equipment.teletype import (
    ALT_ENTER,
    CTRL_C,
    CTRL_D,
    STATUS,
    TAB,
    UP,
    Teletype,
)

COUNT = "Count from 1 to 8."
VOWELS = "List the vowels with numbers."
# A chat whose answers never end by themselves, with a notice during the prefill.
ENDLESS = """
import dataclasses
from dflash_mlx import Sampling
from dflash_mlx.terminal import answer_request, streams
from dflash_mlx.terminal.chat import repl
from dflash_mlx.terminal.answer_options import ThinkingOptions
from dflash_mlx.terminal.chat.looks import Looks

class Noisy(answer_request.AnswerRequest):
    def stream(self, pair, tokenizer, prompt, cache, progress=None):
        def report(done, total):
            if done > 8:
                streams.print_notice("reading")
            progress(done, total)
        yield from super().stream(pair, tokenizer, prompt, cache, report)

never = Sampling(logit_bias={2: -100.0})
request = Noisy(max_tokens=-1, sampling=never, prefill_step_size=4, plain=True)
repl.run(request, ThinkingOptions(), Looks(markdown=False))
"""
# The same with slow passes, in which Python handles no signal.
SLOW = "import hashlib\n" + ENDLESS.replace(
    'streams.print_notice("reading")',
    'hashlib.pbkdf2_hmac("sha256", b"", b"", 6_000_000)',
)


@pytest.mark.slow
def test_a_conversation_with_every_command(chat, home):
    with chat("--system-prompt", "Be brief.", "-m", "60", columns=100, rows=30) as tty:
        tty.enter("/help", "h, /? help.")
        tty.enter("/help undo", "/undo: remove the last")
        tty.enter("/stats", "There are no answers yet.")
        tty.send("Hello!")
        tty.send(VOWELS)
        tty.enter("/stats", "All 2 answers")
        tty.enter("/undo", f"Removed: {VOWELS}")
        tty.send("/retry")
        tty.send("/edit " + VOWELS)
        tty.enter("/set", "how reasoning is displayed")
        tty.enter("/set temp 0.7", "temp is now 0.7.")
        tty.enter("/set temp -1", "temp must be 0 or more")
        tty.enter("/set temp 0", "temp is now 0.")
        tty.enter("/plain", "Using plain decoding: drafting is off.")
        tty.enter("/retry", "tok/s plain")
        tty.enter("/plain off", "Drafting is on.")
        tty.enter("/system", "System prompt: Be brief.")
        tty.enter("/save talk.json", "Saved to talk.json.")
        tty.enter("/system -", "There is no system prompt.")
        tty.enter("/reset", "The conversation is cleared.")
        tty.enter("/load talk.json", "Loaded 2 messages from talk.json.")
        tty.enter("/system", "System prompt: Be brief.")
        tty.send("//vowels please")
        tty.enter("/rset", "Did you mean /reset?")  # nothing is left on the line
        tty.type("/edit\r")
        tty.wait("edit> //vowels please")
        tty.type(CTRL_C)
        tty.wait("The message is unchanged.")
        tty.wait(tty.ready)
        tty.enter("h", "/quit end the chat")
        tty.enter("r", "The conversation is cleared.")
        tty.enter("/undo", "The conversation is back.")
        tty.enter("/history", ">> /vowels please")
        tty.type("q\r")
        assert tty.end() == 0
    saved = json.loads((home / "talk.json").read_text())
    assert [each["content"] for each in saved["messages"]][0] == VOWELS
    assert saved["system"] == "Be brief." and b"Traceback" not in tty.raw


@pytest.mark.slow
def test_ctrl_c_stops_the_answer_and_a_follow_up_continues(chat, home):
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
        assert "Press Ctrl-D or type /quit to quit." not in tty.text()
        tty.type(CTRL_C)
        tty.wait("Press Ctrl-D or type /quit to quit.")
        tty.wait(tty.ready)
        tty.enter("/set max_tokens 5", "max_tokens is now 5.")
        tty.send("And then?")
        # The caches held the first turn, except perhaps its last word.
        tty.enter("/stats", "All 2 answers")
        stats = tty.text().split("Last answer")[1].split(" prompt tokens came")[0]
        cached, total = map(int, stats.split()[-3::2])
        assert total > cached > 40
        tty.enter("/save talk.json", "Saved")
        tty.leave()
    messages = json.loads((home / "talk.json").read_text())["messages"]
    assert messages[1]["content"].startswith("1, 2, 3,") and len(messages) == 4


@pytest.mark.full("programs")
def test_text_typed_during_an_answer_appears_at_the_next_prompt(chat):
    with chat("-m", "200", "--plain") as tty:
        tty.type("Count from 1 to 60.\r")
        tty.wait("1, 2, 3,")
        tty.type("later")
        tty.wait(">> later")
        answer = tty.text().split("1, 2, 3,")[1].split("tok/s")[0]
        assert "later" not in answer
        tty.type(CTRL_C)
        tty.leave()


@pytest.mark.slow
def test_ctrl_c_during_the_prefill(chat):
    with chat(script=ENDLESS) as tty:
        tty.enter("/set max_tokens 4", "max_tokens is now 4.")
        tty.type("word " * 400 + "\r")
        tty.wait("reading")
        tty.type(CTRL_C)
        tty.wait("(stopped before the answer began; /retry tries again)")
        tty.wait(tty.ready)
        tty.send("/retry")
        tty.enter("/undo", "Removed: word word")
        tty.enter("/undo", "There is no message yet.")
        tty.leave()


@pytest.mark.full("programs")
def test_a_paste_is_one_message(chat, home):
    lines = [f"\t{n}: {'x' * (n % 2)}" for n in range(60)]
    with chat("-m", "3") as tty:
        tty.wait(lambda: b"\x1b[?2004h" in tty.raw)
        tty.type("\x1b[200~" + "\r\n".join(lines) + "\x1b[201~")
        tty.wait("59:")
        tty.send("")
        tty.type("/paste\r")
        tty.wait("Ctrl-D on a line of its own sends")
        tty.wait("..")
        tty.type("\r".join(lines) + "\r")
        tty.wait(lambda: tty.text().count("59:") >= 2)
        tty.type(CTRL_D)
        tty.wait(lambda: tty.text().count(STATUS) == 2)
        tty.wait(tty.ready)
        tty.enter("/save talk.json", "Saved")
        tty.leave()
    messages = json.loads((home / "talk.json").read_text())["messages"]
    questions = [each["content"] for each in messages if each["role"] == "user"]
    assert questions == ["\n".join(lines)] * 2


@pytest.mark.slow
def test_a_block_in_triple_quotes_is_one_message(chat, home):
    with chat("-m", "3") as tty:
        tty.type('"""one\r/reset\rq\r')
        tty.wait("/reset")
        tty.send('"""')
        tty.enter("/save talk.json", "Saved")
        tty.type("/bye\r")
        assert tty.end() == 0
    messages = json.loads((home / "talk.json").read_text())["messages"]
    assert messages[0]["content"] == "one\n/reset\nq"


@pytest.mark.slow
@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (60, 20)])
def test_a_turn_has_one_status_row_and_a_blank_row_after_it(chat, columns, rows):
    with chat("-m", "60", "--block-size", "8", columns=columns, rows=rows) as tty:
        tty.send(VOWELS)
        lines = tty.lines()
        assert lines[0] == "tiny (a toy for arithmetic) + its drafter, /help for help"
        assert lines[1:3] == ["", f">> {VOWELS}"]
        at = next(i for i, line in enumerate(lines) if " tok/s" in line)
        assert re.fullmatch(r"\d+ tok  [\d.]+ tok/s(  [\d.]+x)?", lines[at])
        assert lines[at + 1 : at + 3] == ["", ">>"]
        tty.leave()


@pytest.mark.slow
def test_edit_is_left_with_one_ctrl_c_and_runs_commands(chat):
    with chat("-m", "3") as tty:
        tty.send("Hello!")
        tty.type("/edit\r")
        tty.wait("edit> Hello!")
        tty.type(CTRL_C)
        tty.wait("The message is unchanged.")
        tty.wait(tty.ready)
        tty.type("/edit\r")
        tty.wait(lambda: tty.text().count("edit> Hello!") == 2)
        tty.type("\x15")  # clears the line
        tty.enter("/history", ">> Hello!")
        tty.leave()


@pytest.mark.slow
def test_a_menu_is_offered_on_a_terminal_without_a_model(home):
    env = {"HOME": str(home), "NO_COLOR": None}
    with Teletype("-m", "dflash_mlx", "chat", env=env, cwd=home) as tty:
        tty.wait("Number or name [tiny]:")
        menu = tty.lines()
        assert any("tiny" in line and "toy" in line for line in menu)
        assert all(len(line) <= 80 for line in menu)
        tty.type("99\r")
        tty.wait("Choose a number from 1 to")
        tty.type("\r")
        tty.wait(tty.ready)
        assert "tiny (a toy for arithmetic)" in tty.text()
        tty.leave()
    with Teletype("-m", "dflash_mlx", "chat", env=env, cwd=home) as tty:
        tty.wait("Number or name [tiny]:")
        tty.type(CTRL_D)
        assert tty.end() == 0


@pytest.mark.slow
def test_ctrl_c_in_a_long_prefill_is_announced_at_once(chat):
    with chat(script=SLOW) as tty:
        tty.type("word " * 400 + "\r")
        tty.wait("Reading the prompt")
        tty.type(CTRL_C)
        pressed = time.monotonic()
        tty.wait("Stopping...")
        assert time.monotonic() - pressed < 1.0
        tty.wait("(stopped before the answer began")
        assert time.monotonic() - pressed > 1.0
        tty.wait(tty.ready)
        tty.leave()


@pytest.mark.slow
def test_a_message_of_several_lines(chat, home):
    with chat("-m", "3") as tty:
        tty.type("one" + ALT_ENTER + "two\\\r" + "three")
        tty.wait("three")
        tty.send("")
        tty.enter("/save talk.json", "Saved")
        tty.type("/sa" + TAB + "ta" + TAB + "\r")
        tty.wait(lambda: tty.text().count("Saved to talk.json.") == 2)
        tty.leave()
    messages = json.loads((home / "talk.json").read_text())["messages"]
    assert messages[0]["content"] == "one\ntwo\nthree"


@pytest.mark.full("programs")
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
        shown = tty.text()
        assert shown.count("tok/s") == 2
        tty.enter("/help", "h, /? help.")
        tty.enter("/save talk.json", "Saved")
        tty.leave()
    messages = json.loads((home / "talk.json").read_text())["messages"]
    assert messages[0]["content"] == text


@pytest.mark.full("programs")
def test_the_history_survives_sessions(chat, home):
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
