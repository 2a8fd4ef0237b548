"""Ctrl-C in a chat: during the prompt, during an answer, at the prompt, twice."""

import signal
from dataclasses import replace

import pytest
from rich.console import Console

from dflash_mlx import load
from dflash_mlx.terminal.chat.conversation import Conversation
from dflash_mlx.terminal.chat.repl import read_lines
from dflash_mlx.terminal.chat.settings import Settings
from dflash_mlx.terminal.chat.turn import held_back_text
from dflash_mlx.terminal.screen.display import Display
from tests.equipment.session import COUNT, ENDLESS, enter, make_session


def cached_text(chat):
    """The text that the caches hold."""
    return chat.tokenizer.decode(chat.cache.tokens + chat.cache.tail)


@pytest.mark.slow
@pytest.mark.parametrize("at", (7, 40))
def test_ctrl_c_keeps_the_answer_so_far(any_kind, at, capsys):
    options = {"max_tokens": 60, "sampling": ENDLESS, "block_size": 4}
    chat = make_session(any_kind, presses=(at,), **options)
    enter(chat, COUNT)
    question, stopped = (each.content for each in chat.conversation.messages)
    captured = capsys.readouterr()
    assert "(stopped)" in captured.err and captured.out == stopped + "\n"
    assert not chat.cache.broken
    tokens = chat.stats.answers[-1].tokens
    assert at <= tokens < 60
    assert cached_text(chat).endswith(stopped) or "\ufffd" in cached_text(chat)
    # A follow-up and a fresh run continue alike.
    chat.request = replace(chat.request, presses=(), max_tokens=12)
    chat.settings = Settings.from_options(chat.request)
    enter(chat, "Hello!")
    fresh = make_session(any_kind, max_tokens=12, sampling=ENDLESS)
    fresh.conversation = chat.conversation.undo()
    enter(fresh, "Hello!")
    assert fresh.conversation == chat.conversation
    assert question == COUNT and stopped in chat.conversation.messages[1].content


@pytest.mark.slow
def test_a_follow_up_of_a_stopped_answer_is_cached(tiny):
    chat = make_session(tiny, presses=(20,))
    enter(chat, COUNT)
    tokens = len(chat.cache.tokens) + len(chat.cache.tail)
    chat.request = replace(chat.request, presses=())
    enter(chat, "Hello!")
    # The text may have other tokens at the cut.
    assert chat.stats.answers[-1].cached_tokens >= tokens - 3


def test_ctrl_c_during_the_prefill(any_kind, capsys):
    chat = make_session(any_kind, max_tokens=8)
    enter(chat, "Hello!")
    before = chat.conversation
    chat.request = replace(chat.request, in_prompt=4, prefill_step_size=4)
    enter(chat, COUNT)
    assert "stopped before the answer began; /retry" in capsys.readouterr().err
    assert chat.conversation == before and chat.latest.last_question == COUNT
    assert not chat.cache.broken
    chat.request = replace(chat.request, in_prompt=None)
    enter(chat, "/retry")
    fresh = make_session(any_kind, max_tokens=8)
    fresh.conversation = before
    enter(fresh, COUNT)
    assert chat.conversation == fresh.conversation and chat.pending is None


def test_a_stopped_retry_or_edit_keeps_the_old_answer(tiny):
    chat = make_session(tiny)
    enter(chat, "Hello!")
    before = chat.conversation
    chat.request = replace(chat.request, in_prompt=0)
    for line in ("/retry", "/edit " + COUNT):
        enter(chat, line)
        assert chat.conversation == before and chat.pending is not None
    enter(chat, "/undo")  # of the message without an answer
    assert chat.conversation == before and chat.pending is None
    enter(chat, "/undo")
    assert chat.conversation == Conversation()


@pytest.mark.slow
def test_a_second_ctrl_c_stops_at_once(any_kind):
    options = {"max_tokens": 60, "sampling": ENDLESS, "block_size": 4}
    chat = make_session(any_kind, presses=(3,), **options)

    class Twice(Display):
        def push(self, response):
            super().push(response)
            if response.generation_tokens == 3:
                signal.raise_signal(signal.SIGINT)

    usual, chat.make_display = chat.make_display, lambda *_: Twice(Console())
    enter(chat, COUNT)
    assert chat.stats.answers[-1].tokens >= 3 and not chat.conversation.unanswered
    chat.request, chat.make_display = replace(chat.request, presses=()), usual
    enter(chat, "/retry")
    fresh = make_session(any_kind, **options)
    enter(fresh, COUNT)
    assert chat.conversation == fresh.conversation


def test_the_signal_handler_is_restored_after_the_answer(tiny):
    before = signal.getsignal(signal.SIGINT)
    enter(make_session(tiny, presses=(2,)), COUNT)
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_at_the_prompt_explains_how_to_quit(tiny, capsys):
    chat = make_session(tiny, KeyboardInterrupt, "Hello!", None)
    read_lines(chat)
    assert "Press Ctrl-D or type /quit to quit." in capsys.readouterr().err
    assert chat.conversation.last_question == "Hello!"


def test_ctrl_c_ends_a_chat_that_reads_a_pipe(tiny):
    chat = make_session(tiny, COUNT, "never read", presses=(3,))
    chat.reader.terminal = False
    with pytest.raises(KeyboardInterrupt):
        read_lines(chat)
    assert chat.reader.lines == ["never read"]


def test_stopped_reasoning_is_kept(thinker):
    chat = make_session(thinker, max_tokens=12, presses=(5,))
    enter(chat, "Why?")
    assert chat.conversation.messages[-1].reasoning and chat.pending is None


def test_ctrl_c_as_the_prompt_ends_keeps_the_first_token(tiny):
    chat = make_session(tiny)
    enter(chat, "Hello!")
    prompt_tokens = chat.stats.answers[-1].prompt_tokens
    chat = make_session(tiny, in_prompt=prompt_tokens)
    enter(chat, "Hello!")
    assert chat.pending is None and chat.stats.answers[-1].tokens >= 1


def test_ctrl_c_at_the_last_token_stops_nothing(tiny, capsys):
    chat = make_session(tiny)
    enter(chat, "Hello!")
    tokens = chat.stats.answers[-1].tokens
    chat = make_session(tiny, presses=(tokens,))
    enter(chat, "Hello!")
    assert "(stopped)" not in capsys.readouterr().err


def test_a_second_ctrl_c_does_not_wait_for_the_round(tiny):
    seen = {}
    for presses in ((3,), (3, 4)):
        chat = make_session(tiny, sampling=ENDLESS, block_size=8, presses=presses)

        class Recording(Display):
            def push(self, response, presses=presses):
                seen[presses] = response.generation_tokens
                super().push(response)

        chat.make_display = lambda *_, Recording=Recording: Recording(Console())
        enter(chat, COUNT)
    assert seen[3, 4] == 3 < seen[3,]


def test_a_stopped_answer_does_not_show_half_a_character():
    _, tokenizer = load("tiny", "none")
    parts = tokenizer.encode("日", add_special_tokens=False)
    assert len(parts) == 3
    assert held_back_text(tokenizer, [(part, 0) for part in parts]) == "日"
    assert held_back_text(tokenizer, [(part, 0) for part in parts[:2]]) == ""
