"""A chat among mishaps: odd file names, odd files, Ctrl-C at odd moments."""

import json
import os
import sys
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from rich.console import Console

from dflash_mlx import Pair, load
from dflash_mlx.errors import (
    CommandError,
    ConversationError,
    OptionError,
    PromptError,
)
from dflash_mlx.terminal.answer_options import Looks, ThinkingOptions
from dflash_mlx.terminal.chat import commands, editor, turn
from dflash_mlx.terminal.chat import session as module
from dflash_mlx.terminal.chat.session import Chat
from dflash_mlx.terminal.screen.display import Display
from tests.equipment import architectures
from tests.equipment.program import process
from tests.equipment.turns import TEMPLATES, make_tokenizer
from tests.terminal.chat.test_session import (
    COUNT,
    GOOD,
    NEVER,
    Given,
    Typed,
    chat_with,
    say_all,
)


@pytest.fixture(scope="module")
def tiny():
    return load("tiny")


def messages_of(path):
    return [each["content"] for each in json.loads(path.read_text())["messages"]]


# Files


@pytest.mark.parametrize(
    "line",
    [
        "/save file.txt/talk.json",
        "/save " + "x" * 300,
        "/save a\0b",
        "/save ..",
        "/save ~nosuch/talk.json",
        "/load ~nosuch/talk.json",
        "/load " + "x" * 300,
        "/load a\0b",
        "/load file.txt/talk.json",
    ],
)
def test_a_mistyped_name_is_said_and_the_chat_goes_on(
    tiny, tmp_path, monkeypatch, capsys, line
):
    monkeypatch.chdir(tmp_path)
    Path("file.txt").write_text("mine")
    Chat(Given(what=tiny), Typed("Hello!", line, "Hello!", None)).talk()
    told = capsys.readouterr()
    assert told.out.count("Hello!") == 2 and "Traceback" not in told.err
    assert os.listdir() == ["file.txt"] and Path("file.txt").read_text() == "mine"


def test_a_long_name_and_a_home_are_fine(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    chat = chat_with(tiny)
    say_all(chat, "Hello!", "/save " + "x" * 250, "/save ~/talk.json")
    assert messages_of(tmp_path / ("x" * 250)) == messages_of(
        tmp_path / "home" / "talk.json"
    )


def test_half_a_character_is_in_no_conversation(tiny, tmp_path):
    path = tmp_path / "talk.json"
    path.write_text(json.dumps(GOOD).replace('"a"', '"a\\ud800b"'))
    with pytest.raises(ConversationError, match=r"talk\.json"):
        chat_with(tiny).hear(f"/load {path}")


def test_a_question_that_waits_is_saved(tiny, tmp_path):
    path = tmp_path / "talk.json"
    path.write_text(json.dumps(GOOD))
    chat = chat_with(tiny)
    say_all(chat, f"/load {path}", f"/save {path}")
    assert messages_of(path) == ["a"]
    # One that was to replace another is not yet the conversation's.
    said = say_all(chat, "/undo", "Hello!")
    chat.ask = replace(chat.ask, in_prompt=0)
    say_all(chat, "/edit " + COUNT, f"/save {path}")
    assert messages_of(path) == said
    chat.hear(COUNT)
    chat.hear(f"/save {path}")
    assert messages_of(path) == [*said, COUNT]


def test_a_loaded_conversation_leaves_no_older_question(tiny, tmp_path):
    path = tmp_path / "talk.json"
    chat = chat_with(tiny)
    kept = say_all(chat, "Hello!", f"/save {path}")
    chat.ask = replace(chat.ask, in_prompt=0)
    chat.hear(COUNT)
    assert chat.pending is not None
    chat.hear(f"/load {path}")
    assert chat.pending is None and say_all(chat) == kept


def test_what_a_file_says_steers_no_terminal(tiny, tmp_path, capsys):
    path = tmp_path / "talk.json"
    path.write_text(json.dumps(GOOD | {"model": "\x1b[2Jevil\x07"}))
    chat = chat_with(tiny)
    chat.hear(f"/load {path}")
    told = capsys.readouterr().err
    assert "[2Jevil" in told and "tiny goes on." in told and "\x1b" not in told
    path.write_text(json.dumps(GOOD))
    chat.hear(f"/load {path}")
    assert "goes on" not in capsys.readouterr().err


def test_options_of_the_command_line_stay_when_a_file_is_loaded(
    tiny, tmp_path, monkeypatch
):
    path = tmp_path / "talk.json"
    path.write_text(json.dumps(GOOD | {"settings": {"temp": 0.9, "top_k": 5}}))
    opened = []
    monkeypatch.setattr(Chat, "talk", lambda chat: opened.append(chat.settings))
    monkeypatch.setattr(module, "open_reader", lambda *_: Typed())
    ask = Given(what=tiny, sampling=replace(NEVER, temp=0.1))
    module.run(ask, ThinkingOptions(), Looks(load=path))
    assert (opened[0].temp, opened[0].top_k) == (0.1, 5)
    path.write_text("{")
    with pytest.raises(ConversationError, match=r"Name another file\.") as error:
        module.run(ask, ThinkingOptions(), Looks(load=path))
    assert "goes on" not in str(error.value)


# Commands


def test_a_bug_in_a_command_costs_no_conversation(tiny, capsys, monkeypatch):
    chat = Chat(Given(what=tiny), Typed("Hello!", "/stats", "Hello!", None))
    monkeypatch.setattr(chat.tally, "report", lambda: 1 / 0)
    chat.talk()
    told = capsys.readouterr().err
    assert "ZeroDivisionError" in told and "That is a bug." in told
    assert len(chat.conversation.messages) == 4


def test_near_names_are_suggested():
    for line, name in (("/rt", "/retry"), ("/hlp", "/help"), ("/tmp", "/stats")):
        with pytest.raises(CommandError) as error:
            commands.parse(line)
        assert (f"Did you mean {name}?" in str(error.value)) is (line != "/tmp")


def test_undo_tells_of_the_question_that_waits(tiny, capsys):
    chat = chat_with(tiny)
    chat.hear("Hello!")
    chat.ask = replace(chat.ask, in_prompt=0)
    chat.hear(COUNT)
    chat.hear("/undo")
    assert f"Taken back: {COUNT}" in capsys.readouterr().err
    assert len(commands.brief("word " * 100)) == 60


def test_a_system_prompt_reaches_the_question_that_waits(tiny):
    chat = chat_with(tiny, in_prompt=0)
    chat.hear("Hello!")
    chat.hear("/system Be brief.")
    chat.ask = replace(chat.ask, in_prompt=None)
    chat.hear("/retry")
    assert chat.conversation.system == "Be brief." and not chat.conversation.open


def test_a_blank_paste_sends_nothing(tiny, capsys):
    chat = Chat(Given(what=tiny), Typed(" \n\t\n", None))
    chat.hear("/paste")
    assert "Nothing is sent." in capsys.readouterr().err
    assert not chat.conversation.messages


def test_a_block_size_is_checked_while_nothing_is_drafted(tiny):
    chat = chat_with(tiny)
    chat.hear("/plain")
    for size in (0, 257):
        with pytest.raises(OptionError, match="1 to 256"):
            chat.hear(f"/set block_size {size}")
    chat.hear("/set block_size 4")
    chat.hear("/plain off")
    assert chat.settings.block_size == 4


# Ctrl-C


@pytest.fixture(scope="module")
def thinker():
    """A random model whose prompts end with the beginning of its reasoning."""
    pair = Pair.of(architectures.build("qwen3"))
    return pair, make_tokenizer(TEMPLATES["thinking"])


def test_reasoning_is_kept_and_shown_as_it_was_set(thinker, monkeypatch):
    shown = []

    def noting(console, **how):
        shown.append(how)
        return Display(console, **how)

    monkeypatch.setattr(module, "Display", noting)
    chat = chat_with(thinker, max_tokens=12)
    say_all(chat, "/set reasoning hide", "/set drafts on", "/set markdown off", "Why?")
    said = chat.conversation.messages[-1]
    assert said.reasoning and not said.content
    how = {name: shown[-1][name] for name in ("reasoning", "drafts", "markdown")}
    assert how == {"reasoning": "hide", "drafts": True, "markdown": False}


def test_reasoning_that_is_stopped_is_kept(thinker):
    chat = chat_with(thinker, max_tokens=12, presses=(5,))
    chat.hear("Why?")
    assert chat.conversation.messages[-1].reasoning and chat.pending is None


def test_ctrl_c_as_the_prompt_ends_keeps_the_first_token(tiny):
    chat = chat_with(tiny)
    chat.hear("Hello!")
    whole = chat.tally.answers[-1].prompt_tokens
    chat = chat_with(tiny, in_prompt=whole)
    chat.hear("Hello!")
    assert chat.pending is None and chat.tally.answers[-1].tokens >= 1


def test_ctrl_c_at_the_last_token_stops_nothing(tiny, capsys):
    chat = chat_with(tiny)
    chat.hear("Hello!")
    tokens = chat.tally.answers[-1].tokens
    chat = chat_with(tiny, presses=(tokens,))
    chat.hear("Hello!")
    assert "(stopped)" not in capsys.readouterr().err


def test_a_second_ctrl_c_does_not_wait_for_the_round(tiny):
    seen = {}
    for presses in ((3,), (3, 4)):
        chat = chat_with(tiny, sampling=NEVER, block_size=8, presses=presses)

        class Noting(Display):
            def push(self, response, presses=presses):
                seen[presses] = response.generation_tokens
                super().push(response)

        chat.display = lambda ids, Noting=Noting: Noting(Console())
        chat.hear(COUNT)
    assert seen[3, 4] == 3 < seen[3,]


def test_half_a_character_is_not_shown_of_a_stopped_answer():
    _, tokenizer = load("tiny", "none")
    parts = tokenizer.encode("日", add_special_tokens=False)
    assert len(parts) == 3
    assert turn.held_back(tokenizer, [(part, 0) for part in parts]) == "日"
    assert turn.held_back(tokenizer, [(part, 0) for part in parts[:2]]) == ""


# Where messages come from


def test_no_stdin_at_all(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    assert editor.open_reader(pytest.fail, None).read() is None


def test_a_bad_byte_refuses_all_that_was_pasted():
    lines = editor.Lines(BytesIO(b"one\n\xff\ntwo\nq\n"))
    with pytest.raises(PromptError, match="UTF-8"):
        lines.paste()
    assert lines.read() is None


def test_an_encoding_without_a_letter_costs_that_letter_only():
    options = ("--temp", "9", "--seed", "1", "-m", "60", "--verbose", "F")
    run = process("generate", COUNT, *options, env={"PYTHONIOENCODING": "ascii"})
    assert run.returncode == 0 and run.stderr == "" and "?" in run.stdout


def test_a_file_is_no_terminal_whatever_is_said_of_colours(tiny, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    chat = chat_with(tiny)
    chat.hear("List the vowels with numbers.")
    assert capsys.readouterr().out == "1. a\n2. e\n3. i\n4. o\n5. u\n"
