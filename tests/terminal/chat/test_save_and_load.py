"""/save, /load and --load: odd files, odd file names, messages without an answer."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from dflash_mlx.errors import ConversationError
from dflash_mlx.terminal.answer_options import ThinkingOptions
from dflash_mlx.terminal.chat import repl
from dflash_mlx.terminal.chat.conversation import FORMAT
from dflash_mlx.terminal.chat.looks import Looks
from dflash_mlx.terminal.chat.repl import read_lines
from tests.equipment.session import (
    COUNT,
    ENDLESS,
    ScriptedReader,
    ScriptedRequest,
    enter,
    make_session,
)

VALID = {
    "format": FORMAT,
    "version": 1,
    "model": "tiny",
    "drafter": None,
    "settings": {"temp": 0.5},
    "system": None,
    "messages": [{"role": "user", "content": "a"}],
}


INVALID = (
    "",
    "{",
    "\xff",
    "[" * 100_000,
    "[]",
    json.dumps(VALID)[:-1],
    json.dumps(VALID | {"format": "x"}),
    json.dumps(VALID | {"version": 2}),
    json.dumps(VALID | {"model": None}),
    json.dumps(VALID | {"system": 3}),
    json.dumps(VALID | {"settings": []}),
    json.dumps(VALID | {"settings": {"temp": -1}}),
    json.dumps(VALID | {"settings": {"temp": "warm"}}),
    json.dumps(VALID | {"settings": {"nonesuch": 1}}),
    json.dumps(VALID | {"messages": None}),
    json.dumps(VALID | {"messages": ["a"]}),
    json.dumps(VALID | {"messages": [{"role": "user"}]}),
    json.dumps(VALID | {"messages": [{"role": "user", "content": 1}]}),
    json.dumps(VALID | {"messages": [{"role": "assistant", "content": "a"}]}),
    json.dumps(VALID | {"messages": VALID["messages"] * 2}),
)


def messages_of(path):
    return [each["content"] for each in json.loads(path.read_text())["messages"]]


def test_an_invalid_file_changes_nothing(tiny, tmp_path):
    chat = make_session(tiny)
    enter(chat, "Hello!")
    before = chat.conversation, chat.settings, chat.pending
    path = tmp_path / "c.json"
    for text in INVALID:
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(ConversationError, match="c.json"):
            enter(chat, f"/load {path}")
        assert (chat.conversation, chat.settings, chat.pending) == before
    with pytest.raises(ConversationError, match="cannot be read"):
        enter(chat, f"/load {tmp_path}")
    path.write_text(json.dumps(VALID))
    enter(chat, f"/load {path}")
    assert chat.settings.temp == 0.5 and chat.conversation.messages == ()
    assert chat.latest.last_question == "a"  # it had no answer


@pytest.mark.slow
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
def test_after_a_mistyped_name_the_chat_continues(
    tiny, tmp_path, monkeypatch, capsys, line
):
    monkeypatch.chdir(tmp_path)
    Path("file.txt").write_text("mine")
    read_lines(make_session(tiny, "Hello!", line, "Hello!", None))
    captured = capsys.readouterr()
    assert captured.out.count("Hello!") == 2 and "Traceback" not in captured.err
    assert os.listdir() == ["file.txt"] and Path("file.txt").read_text() == "mine"


def test_a_long_name_and_a_home_folder_are_accepted(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    chat = make_session(tiny)
    enter(chat, "Hello!", "/save " + "x" * 250, "/save ~/talk.json")
    assert messages_of(tmp_path / ("x" * 250)) == messages_of(
        tmp_path / "home" / "talk.json"
    )


def test_half_a_surrogate_pair_is_invalid(tiny, tmp_path):
    path = tmp_path / "talk.json"
    path.write_text(json.dumps(VALID).replace('"a"', '"a\\ud800b"'))
    with pytest.raises(ConversationError, match=r"talk\.json"):
        enter(make_session(tiny), f"/load {path}")


def test_an_unanswered_message_is_saved(tiny, tmp_path):
    path = tmp_path / "talk.json"
    path.write_text(json.dumps(VALID))
    chat = make_session(tiny)
    enter(chat, f"/load {path}", f"/save {path}")
    assert messages_of(path) == ["a"]
    # A changed message is not saved before it has an answer.
    before = enter(chat, "/undo", "Hello!")
    chat.request = replace(chat.request, in_prompt=0)
    enter(chat, "/edit " + COUNT, f"/save {path}")
    assert messages_of(path) == before
    enter(chat, COUNT)
    enter(chat, f"/save {path}")
    assert messages_of(path) == [*before, COUNT]


def test_loading_removes_the_unanswered_message(tiny, tmp_path):
    path = tmp_path / "talk.json"
    chat = make_session(tiny)
    kept = enter(chat, "Hello!", f"/save {path}")
    chat.request = replace(chat.request, in_prompt=0)
    enter(chat, COUNT)
    assert chat.pending is not None
    enter(chat, f"/load {path}")
    assert chat.pending is None and enter(chat) == kept


def test_control_characters_of_a_file_are_replaced(tiny, tmp_path, capsys):
    path = tmp_path / "talk.json"
    path.write_text(json.dumps(VALID | {"model": "\x1b[2Jevil\x07"}))
    chat = make_session(tiny)
    enter(chat, f"/load {path}")
    errors = capsys.readouterr().err
    assert "[2Jevil" in errors and "tiny continues." in errors and "\x1b" not in errors
    path.write_text(json.dumps(VALID))
    enter(chat, f"/load {path}")
    assert "continues" not in capsys.readouterr().err


def test_options_of_the_command_line_override_a_file(tiny, tmp_path, monkeypatch):
    path = tmp_path / "talk.json"
    path.write_text(json.dumps(VALID | {"settings": {"temp": 0.9, "top_k": 5}}))
    opened = []
    monkeypatch.setattr(repl, "read_lines", lambda chat: opened.append(chat.settings))
    monkeypatch.setattr(repl, "open_reader", lambda *_: ScriptedReader())
    request = ScriptedRequest(loaded=tiny, sampling=replace(ENDLESS, temp=0.1))
    repl.run(request, ThinkingOptions(), Looks(load=path))
    assert (opened[0].temp, opened[0].top_k) == (0.1, 5)
    path.write_text("{")
    with pytest.raises(ConversationError, match=r"Choose another file\.") as error:
        repl.run(request, ThinkingOptions(), Looks(load=path))
    assert "unchanged" not in str(error.value)
