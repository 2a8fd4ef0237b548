"""The slash commands: how lines are read, what each command prints and changes."""

import re
from dataclasses import replace

import pytest

from dflash_mlx.errors import CommandError, DFlashError
from dflash_mlx.terminal.chat.commands import COMMANDS, check_name, shorten
from dflash_mlx.terminal.chat.lines import (
    is_open,
    line_of,
    message_of,
    parse_command,
)
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
        ("/set tmp", "Did you mean temp"),
        ("/history all", "takes a number of turns"),
        ("/stats all", "takes -v or nothing"),
        ("/continue", "There is no unfinished answer"),
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


def test_nothing_is_left_on_the_line_after_an_unknown_command(tiny, capsys):
    reader = ScriptedReader("/stat", "/quit")
    read_lines(make_session(tiny, reader=reader))
    assert reader.offered == []
    assert "Did you mean /stats" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("/?", "help"),
        ("/bye", "quit"),
        ("/exit", "quit"),
        ("exit", "quit"),
        ("quit", "quit"),
        ("/clear", "reset"),
    ],
)
def test_habits_of_other_chats(line, name):
    assert parse_command(line) == (name, "")


def test_triple_quotes_enclose_a_message():
    assert is_open('"""') and is_open('"""one') and is_open('"""one\ntwo')
    for line in ('"""one"""', '"""one\ntwo"""', '"""doc"""\nx = 1', 'a"""', '""'):
        assert not is_open(line)
    assert message_of('"""one\ntwo"""') == "one\ntwo"
    assert message_of('"""\n/reset\nq\n"""') == "/reset\nq"
    assert parse_command('"""\n/reset\n"""') is None
    for text in ('"""doc"""\nx = 1', '"""doc"""', "a"):
        assert message_of(line_of(text)) == text


def test_a_command_in_the_editor_is_run_and_keeps_the_message(tiny, capsys):
    reader = ScriptedReader("/system Be brief.", "/nonesuch", "q")
    chat = make_session(tiny, reader=reader)
    enter(chat, "Hello!")
    before = chat.conversation.messages
    enter(chat, "/edit")
    assert chat.conversation.messages == before
    assert chat.conversation.system == "Be brief."
    with pytest.raises(CommandError, match="no command /nonesuch"):
        enter(chat, "/edit")
    assert chat.conversation.messages == before
    enter(chat, "/edit")  # there, a letter is a message
    assert chat.conversation.last_question == "q"


def test_undo_takes_a_reset_back(tiny, capsys):
    chat = make_session(tiny)
    enter(chat, "Hello!", COUNT)
    before = chat.conversation
    enter(chat, "r")
    assert "/undo brings it back" in capsys.readouterr().err
    enter(chat, "r", "/system Be brief.", "/undo")
    assert chat.conversation == replace(before, system="Be brief.")
    assert COUNT in capsys.readouterr().err  # the last turn is shown
    enter(chat, "/reset", VOWELS, "/undo", "/undo")
    assert chat.conversation.messages == before.messages
    enter(chat, "/undo")
    assert len(chat.conversation.messages) == 2


def test_a_reset_keeps_the_unanswered_message_for_undo(tiny):
    chat = make_session(tiny, in_prompt=0)
    enter(chat, "Hello!", "r", "/undo")
    assert chat.latest.last_question == "Hello!" and chat.pending is not None


def test_set_shows_one_setting_and_takes_other_names(tiny, capsys):
    chat = make_session(tiny)
    for line, words in (
        ("/set temp", "temp is 0.0 (sampling temperature"),
        ("/set temperature 0.5", "temp is now 0.5."),
        ("/set --top-p 0.9", "top_p is now 0.9."),
        ("/set parameter temperature 0.25", "temp is now 0.25."),
        ("/set max-tokens 7", "max_tokens is now 7."),
        ("/set num_draft_tokens 3", "block_size is now 4."),
        ("/set xtc-probability 0.5", "xtc_probability is now 0.5."),
        ("/set repeat_penalty 1.1", "repetition_penalty is now 1.1."),
        ("/set system Be brief.", "System prompt: Be brief."),
        ("/set", "repetition_penalty"),
    ):
        enter(chat, line)
        assert words in capsys.readouterr().err
    assert chat.settings.temp == 0.25 and chat.settings.block_size == 4
    sampling = chat.settings.apply(chat.request).sampling
    assert (sampling.xtc_probability, sampling.repetition_penalty) == (0.5, 1.1)


def test_history_shows_turns_again(tiny, capsys):
    chat = make_session(tiny)
    enter(chat, "/history")
    assert "There are no messages yet." in capsys.readouterr().err
    enter(chat, "Hello!", VOWELS)
    capsys.readouterr()
    enter(chat, "/history")
    shown = capsys.readouterr()
    assert shown.out == "" and ">> Hello!" in shown.err and VOWELS in shown.err
    assert "5. u" in shown.err
    enter(chat, "/history 1")
    shown = capsys.readouterr().err
    assert "Hello!" not in shown and VOWELS in shown


def test_continue_goes_on_where_an_answer_was_cut_off(tiny, capsys):
    whole = enter(make_session(tiny), VOWELS)
    chat = make_session(tiny, max_tokens=5)
    enter(chat, VOWELS)
    assert "/continue continues it" in capsys.readouterr().err
    for _ in range(9):
        if chat.conversation.messages[-1].content == whole[-1]:
            break
        enter(chat, "/continue")
    assert enter(chat) == whole
    with pytest.raises(CommandError, match="no unfinished answer"):
        enter(chat, "/continue")
    enter(chat, "/set max_tokens 3", "/retry", "/undo")
    with pytest.raises(CommandError, match="no unfinished answer"):
        enter(chat, "/continue")


def test_the_seed_of_an_answer_repeats_it(tiny, capsys):
    chat = make_session(tiny, max_tokens=12)
    enter(chat, "/set temp 9", "Hello!")
    first = chat.conversation.messages[-1]
    enter(chat, "/stats")
    seed = re.search(r"Seed (\d+);", capsys.readouterr().err)[1]
    enter(chat, f"/set seed {seed}", "/retry")
    assert chat.conversation.messages[-1] == first


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
    assert "plain" not in capsys.readouterr().err
    enter(chat, "/plain")
    capsys.readouterr()
    assert enter(chat, "/retry") == first
    assert " tok/s  plain" in capsys.readouterr().err
    enter(chat, "/stats")
    assert "Plain decoding: drafting is off." in capsys.readouterr().err
    enter(chat, "/plain off")
    assert "Drafting is on." in capsys.readouterr().err
    enter(chat, "/retry")
    assert "plain" not in capsys.readouterr().err


@pytest.mark.slow
def test_stats_of_the_answer_and_of_the_session(tiny, capsys):
    chat = make_session(tiny, block_size=4)
    enter(chat, "/stats")
    assert "There are no answers yet." in capsys.readouterr().err
    enter(chat, COUNT, "Hello!", "/stats")
    errors = capsys.readouterr().err
    tokens = sum(stats.tokens for stats in chat.stats.answers)
    assert f"All 2 answers\n  {tokens} tokens, " in errors
    assert errors.count(" guesses right;") == 2 and "position" not in errors
    enter(chat, "/stats -v")
    errors = capsys.readouterr().err
    assert errors.count("position  guesses  right") == 2 == errors.count("rows  passes")


@pytest.mark.slow
def test_a_bug_in_a_command_keeps_the_conversation(tiny, capsys, monkeypatch):
    chat = make_session(tiny, "Hello!", "/stats", "Hello!", None)
    monkeypatch.setattr(chat.stats, "report", lambda **_: 1 / 0)
    read_lines(chat)
    errors = capsys.readouterr().err
    assert "ZeroDivisionError" in errors and "This is a bug" in errors
    assert len(chat.conversation.messages) == 4
