"""The slash commands: how lines are read, what each command prints and changes."""

from dataclasses import replace

import pytest

from dflash_mlx.errors import CommandError, DFlashError
from dflash_mlx.terminal.chat.commands import COMMANDS, check_name, shorten
from dflash_mlx.terminal.chat.lines import line_of, message_of, parse_command
from dflash_mlx.terminal.chat.repl import read_lines
from tests.equipment.session import (
    COUNT,
    VOWELS,
    ScriptedReader,
    enter,
    make_session,
)


def test_lines_are_commands_or_messages():
    assert parse_command("/set temp 1 ") == ("set", "temp 1")
    assert parse_command("/EDIT two\nlines") == ("edit", "two\nlines")
    assert [parse_command(letter)[0] for letter in "qrh"] == ["quit", "reset", "help"]
    for text in ("hello", " q", "/usr/bin/env", "/* C */", "/", "//help", "/2", ""):
        assert parse_command(text) is None
    assert message_of("//help") == "/help" and message_of("a//b") == "a//b"
    for text in ("/help", "//", "a", "/usr/bin/env", "/"):
        line = line_of(text)
        assert parse_command(line) is None and message_of(line) == text
    with pytest.raises(CommandError, match="Did you mean /stats"):
        check_name("stat")


def test_near_names_are_suggested():
    for line, name in (("/rt", "/retry"), ("/hlp", "/help"), ("/tmp", "/stats")):
        with pytest.raises(CommandError) as error:
            check_name(line)
        assert (f"Did you mean {name}?" in str(error.value)) is (line != "/tmp")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/set temp hot", "temp must be a number"),
        ("/set temp -1", "temp must be 0 or more"),
        ("/set temp nan", "temp must be 0 or more"),
        ("/set top_p 2", r"top_p must be in \[0, 1\]"),
        ("/set top_k 1.5", "top_k must be a whole number"),
        ("/set seed -3", "seed must be"),
        ("/set max_tokens 0", "--max-tokens must be"),
        ("/set block_size 0", "--block-size must be"),
        ("/set markdown maybe", "markdown must be on or off"),
        ("/set thinking sometimes", "auto, on or off"),
        ("/set tmp 1", "Did you mean temp"),
        ("/set temp", "needs a name and a value"),
        ("/plain perhaps", "on or off"),
        ("/save", "needs a file"),
        ("/help nonesuch", "no command /nonesuch"),
        ("/rest", "Did you mean /reset"),
        ("/xyzzy", "/help lists the commands"),
        ("/undo", "There is no message yet"),
        ("/retry", "There is no message yet"),
        ("/edit x", "There is no message yet"),
    ],
)
def test_mistakes_in_commands_change_nothing(tiny, line, words):
    chat = make_session(tiny)
    before = chat.settings
    with pytest.raises(DFlashError, match=words):
        enter(chat, line)
    assert chat.settings == before and chat.pending is None


def test_an_unknown_command_is_offered_for_editing(tiny, capsys):
    reader = ScriptedReader("/stat", "/quit")
    read_lines(make_session(tiny, reader=reader))
    assert reader.offered == ["", "/stat"]
    assert "Did you mean /stats" in capsys.readouterr().err


def test_help_describes_every_command(tiny, capsys):
    chat = make_session(tiny)
    enter(chat, "/help")
    table = capsys.readouterr().err
    for name, command in COMMANDS.items():
        enter(chat, f"/help {name}")
        one = capsys.readouterr().err
        assert f"/{name}" in table and command.summary in table
        assert command.usage in one and command.details in one


def test_edit_without_text_offers_the_message(tiny):
    reader = ScriptedReader(VOWELS)
    chat = make_session(tiny, reader=reader)
    enter(chat, "Hello!")
    enter(chat, "/edit")
    assert reader.offered == ["Hello!"]
    assert chat.conversation.last_question == VOWELS
    before = chat.conversation
    for cancelled in (KeyboardInterrupt, None, " "):
        reader.lines = [cancelled]
        enter(chat, "/edit")
        assert chat.conversation == before
    reader.can_edit = False
    with pytest.raises(CommandError, match="needs the new text"):
        enter(chat, "/edit")


def test_undo_prints_the_message_it_removes(tiny, capsys):
    chat = make_session(tiny)
    enter(chat, "Hello!")
    chat.request = replace(chat.request, in_prompt=0)
    enter(chat, COUNT)
    enter(chat, "/undo")
    assert f"Removed: {COUNT}" in capsys.readouterr().err
    assert len(shorten("word " * 100)) == 60


def test_a_new_system_prompt_applies_to_an_unanswered_message(tiny):
    chat = make_session(tiny, in_prompt=0)
    enter(chat, "Hello!")
    enter(chat, "/system Be brief.")
    chat.request = replace(chat.request, in_prompt=None)
    enter(chat, "/retry")
    assert chat.conversation.system == "Be brief." and not chat.conversation.unanswered


@pytest.mark.slow
def test_paste_is_one_message_even_with_commands_in_it(tiny):
    chat = make_session(tiny, "/reset\nq\n", None)
    enter(chat, "/paste")
    assert chat.conversation.last_question == "/reset\nq\n"
    before = chat.conversation
    enter(chat, "/paste")
    assert chat.conversation == before


def test_a_blank_paste_sends_nothing(tiny, capsys):
    chat = make_session(tiny, " \n\t\n", None)
    enter(chat, "/paste")
    assert "Nothing was sent." in capsys.readouterr().err
    assert not chat.conversation.messages


@pytest.mark.slow
def test_plain_answers_the_same(tiny, capsys):
    # The name of a drafter is one of the options that --plain excludes.
    chat = make_session(tiny, block_size=4, draft="tiny-drafter")
    first = enter(chat, COUNT)
    assert "dflash: " in capsys.readouterr().err
    enter(chat, "/plain")
    assert enter(chat, "/retry") == first
    assert "plain (drafting is off)" in capsys.readouterr().err
    enter(chat, "/plain off")
    assert "Drafting is on." in capsys.readouterr().err
    enter(chat, "/retry")
    assert "dflash: " in capsys.readouterr().err


@pytest.mark.slow
def test_stats_of_the_answer_and_of_the_session(tiny, capsys):
    chat = make_session(tiny, block_size=4)
    enter(chat, "/stats")
    assert "There are no answers yet." in capsys.readouterr().err
    enter(chat, COUNT, "Hello!", "/stats")
    errors = capsys.readouterr().err
    tokens = sum(stats.tokens for stats in chat.stats.answers)
    assert f"Session: 2 answers, {tokens} tokens" in errors
    assert errors.count("drafts accepted:") == 2 == errors.count("rounds by width:")


@pytest.mark.slow
def test_a_bug_in_a_command_keeps_the_conversation(tiny, capsys, monkeypatch):
    chat = make_session(tiny, "Hello!", "/stats", "Hello!", None)
    monkeypatch.setattr(chat.stats, "report", lambda: 1 / 0)
    read_lines(chat)
    errors = capsys.readouterr().err
    assert "ZeroDivisionError" in errors and "This is a bug" in errors
    assert len(chat.conversation.messages) == 4
