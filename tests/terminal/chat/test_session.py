"""Turns of a chat session: answers, limits, refusals and bugs."""

import pytest
from rich.console import Console

from dflash_mlx import generate, load
from dflash_mlx.terminal.chat import session
from dflash_mlx.terminal.chat.commands import Quit
from dflash_mlx.terminal.chat.conversation import Conversation
from dflash_mlx.terminal.chat.repl import read_lines
from dflash_mlx.terminal.screen.display import Display
from tests.equipment.session import (
    COUNT,
    VOWELS,
    VOWELS_ANSWER,
    ScriptedReader,
    enter,
    make_session,
)


def test_a_session(tiny, capsys, tmp_path):
    chat = make_session(tiny)
    hello, answer = enter(chat, "Hello!")
    assert capsys.readouterr().out == answer + "\n"
    enter(chat, COUNT)
    assert enter(chat, "/undo") == [hello, answer]
    assert enter(chat, "/edit " + VOWELS)[1] == VOWELS_ANSWER
    assert enter(chat, "/reset") == [] and not chat.cache.tokens
    assert enter(chat, "//list the vowels")[0] == "/list the vowels"
    enter(chat, "/system Be brief.")
    assert chat.conversation.system == "Be brief."
    path = tmp_path / "a.json"
    enter(chat, f"/save {path}")
    kept = chat.conversation
    enter(chat, "/system -", "/reset", "/set temp 1")
    assert chat.conversation == Conversation()
    enter(chat, f"/load {path}")
    assert chat.conversation == kept and chat.settings.temp == 0
    with pytest.raises(Quit):
        enter(chat, "/quit")


@pytest.mark.slow
def test_answers_equal_those_of_a_fresh_run(tiny):
    pair, tokenizer = tiny
    chat = make_session(tiny)
    for line in ("Hello!", COUNT, "/retry", "/undo", "/edit What is 12 + 34?"):
        enter(chat, line)
        conversation = chat.conversation
        ids = tokenizer.apply_chat_template(
            conversation.retry().template_messages(), add_generation_prompt=True
        )
        fresh = generate(pair, tokenizer, ids, max_tokens=60)
        assert conversation.messages[-1].content == fresh


def test_an_answer_cut_off_by_max_tokens_explains_how_to_get_more(tiny, capsys):
    chat = make_session(tiny, max_tokens=5)
    short = enter(chat, VOWELS)[1]
    assert "/set max_tokens 10 allows longer answers" in capsys.readouterr().err
    enter(chat, "/set max_tokens 500")
    longer = enter(chat, "/retry")[1]
    assert longer.startswith(short) and longer.endswith("5. u")
    assert "cut" not in capsys.readouterr().err


@pytest.fixture
def narrow(tiny):
    """The embedded pair with a short context."""
    pair, tokenizer = tiny
    target = pair.target
    context, target.context = target.context, 96
    yield tiny
    target.context = context


@pytest.mark.slow
def test_the_end_of_the_context(narrow, capsys):
    reader = ScriptedReader("Hello!", COUNT, "Hello!", "/undo", "/undo", "Hello!", None)
    chat = make_session(narrow, reader=reader, max_tokens=1024)
    read_lines(chat)
    errors = capsys.readouterr().err
    assert "the model's context of 96 tokens is full" in errors
    assert "the model's context ends at 96" in errors
    # Nothing was left on the line; /undo removed the refused message and the long turn.
    assert reader.offered == []
    questions = [m.content for m in chat.conversation.messages if m.role == "user"]
    assert questions == ["Hello!", "Hello!"]


@pytest.mark.slow
def test_a_refused_message_does_not_change_the_conversation(narrow):
    chat = make_session(narrow)
    enter(chat, "Hello!")
    before = chat.conversation
    enter(chat, "word " * 200)
    assert chat.conversation == before and chat.latest.last_question == "word " * 200
    enter(chat, COUNT)
    assert chat.conversation.last_question == COUNT and chat.pending is None


def test_edit_offers_a_refused_message_as_the_line_that_sends_it(narrow):
    reader = ScriptedReader("//" + "word " * 200, "/edit", KeyboardInterrupt, None)
    read_lines(make_session(narrow, reader=reader))
    assert reader.offered == ["//" + "word " * 200]


def test_a_template_that_refuses(tiny, capsys):
    pair, tokenizer = load("tiny")
    tokenizer.chat_template = "{{ raise_exception('no system role') }}"
    chat = make_session((pair, tokenizer))
    enter(chat, "Hello!")
    assert "no system role" in capsys.readouterr().err
    assert chat.conversation.messages == () and chat.latest.last_question == "Hello!"


def test_after_a_bug_in_a_turn_the_chat_continues(tiny, capsys, monkeypatch):
    chat = make_session(tiny)
    enter(chat, "Hello!")
    before = chat.conversation

    class Broken(Display):
        def push(self, response):
            raise ZeroDivisionError("a bug")

    monkeypatch.setattr(chat, "make_display", lambda *_: Broken(Console()))
    enter(chat, COUNT)
    errors = capsys.readouterr().err
    assert "ZeroDivisionError: a bug" in errors and "Traceback" in errors
    assert chat.conversation == before
    assert not chat.cache.tokens  # the caches may be wrong
    monkeypatch.undo()
    enter(chat, "/retry")
    fresh = make_session(tiny)
    enter(fresh, "Hello!", COUNT)
    assert chat.conversation == fresh.conversation


def test_reasoning_is_kept_and_displayed_as_set(thinker, monkeypatch):
    shown = []

    def recording(console, **options):
        shown.append(options)
        return Display(console, **options)

    monkeypatch.setattr(session, "Display", recording)
    chat = make_session(thinker, max_tokens=12)
    enter(chat, "/set reasoning hide", "/set drafts on", "/set markdown off", "Why?")
    message = chat.conversation.messages[-1]
    assert message.reasoning and not message.content
    options = {name: shown[-1][name] for name in ("reasoning", "drafts", "markdown")}
    assert options == {"reasoning": "hide", "drafts": True, "markdown": False}


def test_force_color_does_not_make_a_file_a_terminal(tiny, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    chat = make_session(tiny)
    enter(chat, VOWELS)
    assert capsys.readouterr().out == VOWELS_ANSWER + "\n"


@pytest.mark.slow
def test_only_new_tokens_are_prefilled(any_kind):
    chat = make_session(any_kind, max_tokens=8)
    enter(chat, "Hello!", COUNT, "/retry", "/edit " + COUNT + " Now!")
    new = [stats.prompt_tokens for stats in chat.stats.answers]
    assert all(stats.cached_tokens for stats in chat.stats.answers[1:])
    assert new[2] == 1 and new[3] < 25
