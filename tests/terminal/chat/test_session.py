"""The chat without a terminal: conversations, commands, turns and what ends them."""

import json
import os
import signal
import threading
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from rich.console import Console

from dflash_mlx import Pair, Sampling, load
from dflash_mlx.errors import (
    CommandError,
    ConversationError,
    DFlashError,
    OptionError,
    PromptError,
)
from dflash_mlx.terminal.answer_request import AnswerRequest
from dflash_mlx.terminal.chat import conversation as files
from dflash_mlx.terminal.chat import history, settings
from dflash_mlx.terminal.chat.commands import (
    COMMANDS,
    Leave,
    line_of,
    message,
    parse,
)
from dflash_mlx.terminal.chat.completer import Commands
from dflash_mlx.terminal.chat.conversation import Conversation, Message, Record
from dflash_mlx.terminal.chat.editor import Lines
from dflash_mlx.terminal.chat.session import Chat
from dflash_mlx.terminal.chat.settings import Settings
from dflash_mlx.terminal.screen.display import Display
from tests.equipment import architectures
from tests.equipment.random_weights import randomize_weights

COUNT = "Count from 1 to 30."
NEVER = Sampling(logit_bias={2: -100.0})  # the answer has no end of its own


@pytest.fixture(scope="module")
def tiny():
    return load("tiny")


class Typed:
    """A reader of given lines; what it was offered to edit is noted."""

    terminal = edits = True

    def __init__(self, *lines):
        self.lines, self.offered = list(lines), []

    def read(self, text=""):
        self.offered.append(text)
        line = self.lines.pop(0) if self.lines else None
        if line is KeyboardInterrupt:
            raise KeyboardInterrupt
        return line

    paste = read


@dataclass(frozen=True)
class Given(AnswerRequest):
    """Options whose model is there already; Ctrl-C is pressed at given tokens.

    Args:
        what: Pair and tokenizer.
        presses: Tokens of the answer after which Ctrl-C is pressed.
        in_prompt: Prompt tokens after which it is pressed.
    """

    what: Any = None
    presses: tuple[int, ...] = ()
    in_prompt: int | None = None

    def load(self):
        return self.what

    def stream(self, pair, tokenizer, prompt, cache, progress=None):
        waiting = [] if self.in_prompt is None else [self.in_prompt]

        def pressed(done, total):
            if waiting and done >= waiting[0]:
                waiting.clear()
                signal.raise_signal(signal.SIGINT)
            progress(done, total)

        for n, response in enumerate(
            super().stream(pair, tokenizer, prompt, cache, pressed), 1
        ):
            if n in self.presses:
                signal.raise_signal(signal.SIGINT)
            yield response


def chat_with(what, *lines, **options):
    return Chat(Given(what=what, **{"max_tokens": 60} | options), Typed(*lines))


def say_all(chat, *lines):
    for line in lines:
        chat.hear(line)
    return [each.content for each in chat.conversation.messages]


# Conversations


def test_turns_of_a_conversation():
    first = Conversation("Be brief.").ask("a").answer("1", "why").ask("b").answer("2")
    assert first.question == "b" and not first.open
    assert first.undo().question == "a" and len(first.undo().messages) == 2
    again = first.retry()
    assert again.open and again.question == "b" and again.undo() == first.undo()
    assert first.edit("c").messages == (*first.messages[:2], Message("user", "c"))
    assert again.edit("c") == first.edit("c")
    assert again.ask("d") == first.edit("d")  # an open question is replaced
    assert first.reset() == Conversation("Be brief.")
    assert first.for_template()[:3] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "1", "reasoning_content": "why"},
    ]
    for step in ("undo", "retry"):
        with pytest.raises(CommandError, match="Nothing was asked"):
            getattr(Conversation(), step)()


def test_a_record_comes_back_as_it_was_saved(tmp_path):
    spoken = Conversation("Sé breve. 🦎").ask("日本語\n").answer("\x1b[31m", "hm")
    record = Record(spoken, "tiny", "none", {"temp": 0.5, "seed": None})
    path = tmp_path / "a b.json"
    files.save(record, path)
    files.save(record, path)  # over itself
    assert files.load(path) == record
    told = json.loads(path.read_text("utf-8"))
    assert told["format"] == files.FORMAT and told["version"] == 1
    assert list(tmp_path.iterdir()) == [path]


def test_save_replaces_no_other_file(tmp_path):
    path = tmp_path / "thesis.txt"
    path.write_text("years of work")
    record = Record(Conversation(), "tiny")
    with pytest.raises(ConversationError, match="there already"):
        files.save(record, path)
    assert path.read_text() == "years of work"
    with pytest.raises(ConversationError, match="No such file or directory"):
        files.save(record, tmp_path / "none" / "a.json")
    with pytest.raises(ConversationError):
        files.save(record, tmp_path)


GOOD = {
    "format": files.FORMAT,
    "version": 1,
    "model": "tiny",
    "drafter": None,
    "settings": {"temp": 0.5},
    "system": None,
    "messages": [{"role": "user", "content": "a"}],
}
BROKEN = (
    "",
    "{",
    "\xff",
    "[" * 100_000,
    "[]",
    json.dumps(GOOD)[:-1],
    json.dumps(GOOD | {"format": "x"}),
    json.dumps(GOOD | {"version": 2}),
    json.dumps(GOOD | {"model": None}),
    json.dumps(GOOD | {"system": 3}),
    json.dumps(GOOD | {"settings": []}),
    json.dumps(GOOD | {"settings": {"temp": -1}}),
    json.dumps(GOOD | {"settings": {"temp": "warm"}}),
    json.dumps(GOOD | {"settings": {"nonesuch": 1}}),
    json.dumps(GOOD | {"messages": None}),
    json.dumps(GOOD | {"messages": ["a"]}),
    json.dumps(GOOD | {"messages": [{"role": "user"}]}),
    json.dumps(GOOD | {"messages": [{"role": "user", "content": 1}]}),
    json.dumps(GOOD | {"messages": [{"role": "assistant", "content": "a"}]}),
    json.dumps(GOOD | {"messages": GOOD["messages"] * 2}),
)


def test_a_broken_file_changes_nothing(tiny, tmp_path):
    chat = chat_with(tiny)
    chat.hear("Hello!")
    before = chat.conversation, chat.settings, chat.pending
    path = tmp_path / "c.json"
    for text in BROKEN:
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(ConversationError, match="c.json"):
            chat.hear(f"/load {path}")
        assert (chat.conversation, chat.settings, chat.pending) == before
    with pytest.raises(ConversationError, match="cannot be read"):
        chat.hear(f"/load {tmp_path}")
    path.write_text(json.dumps(GOOD))
    chat.hear(f"/load {path}")
    assert chat.settings.temp == 0.5 and chat.conversation.messages == ()
    assert chat.latest.question == "a"  # it had no answer


# Settings


def test_settings_read_check_and_write(tiny):
    now = Settings.of(AnswerRequest(max_tokens=9))
    for name, text, value in (
        ("temp", "0.7", 0.7),
        ("top-p", "0.9", 0.9),
        ("top_k", "20", 20),
        ("min_p", "0.1", 0.1),
        ("seed", "7", 7),
        ("seed", "none", None),
        ("max_tokens", "-1", -1),
        ("block_size", "4", 4),
        ("thinking", "off", "off"),
        ("effort", "high", "high"),
        ("markdown", "off", False),
        ("drafts", "on", True),
        ("reasoning", "fold", "fold"),
    ):
        new = now.changed(name, text)
        name = name.replace("-", "_")
        assert new.as_dict() == now.as_dict() | {name: value}
        assert now.changed(name, settings.written(value)) == new
        new.apply(AnswerRequest())
    assert set(now.as_dict()) == set(settings.KINDS)


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
        ("/set thinking sometimes", "auto or on or off"),
        ("/set tmp 1", "Did you mean temp"),
        ("/set temp", "needs a name and a value"),
        ("/plain perhaps", "on or off"),
        ("/save", "needs a file"),
        ("/help nonesuch", "no command /nonesuch"),
        ("/rest", "Did you mean /reset"),
        ("/xyzzy", "/help lists all"),
        ("/undo", "Nothing was asked"),
        ("/retry", "Nothing was asked"),
        ("/edit x", "Nothing was asked"),
    ],
)
def test_mistakes_in_commands_change_nothing(tiny, line, words):
    chat = chat_with(tiny)
    before = chat.settings
    with pytest.raises(DFlashError, match=words):
        chat.hear(line)
    assert chat.settings == before and chat.pending is None


def test_what_is_required_stays_required(tiny):
    chat = chat_with(tiny, require_dflash=True)
    for line in ("/plain on", "/set block_size 1"):
        with pytest.raises(OptionError, match="exclude each other"):
            chat.hear(line)


# Lines


def test_commands_are_told_from_messages():
    assert parse("/set temp 1 ") == ("set", "temp 1")
    assert parse("/EDIT two\nlines") == ("edit", "two\nlines")
    assert [parse(letter)[0] for letter in "qrh"] == ["quit", "reset", "help"]
    for text in ("hello", " q", "/usr/bin/env", "/* C */", "/", "//help", "/2", ""):
        assert parse(text) is None
    assert message("//help") == "/help" and message("a//b") == "a//b"
    for text in ("/help", "//", "a", "/usr/bin/env", "/"):
        assert parse(line_of(text)) is None and message(line_of(text)) == text
    with pytest.raises(CommandError, match="Did you mean /stats"):
        parse("/stat")


def test_an_unknown_command_is_given_back_to_edit(tiny, capsys):
    reader = Typed("/stat", "/quit")
    Chat(Given(what=tiny), reader).talk()
    assert reader.offered == ["", "/stat"]
    assert "Did you mean /stats" in capsys.readouterr().err


def completed(text):
    found = Commands().get_completions(Document(text), CompleteEvent())
    return [text[: len(text) + each.start_position] + each.text for each in found]


def test_tab_completes(tmp_path, monkeypatch):
    (tmp_path / "talk.json").touch()
    monkeypatch.chdir(tmp_path)
    assert completed("/re") == ["/reset ", "/retry "]
    assert completed("/set ma") == ["/set max_tokens", "/set markdown"]
    assert completed("/set markdown o") == ["/set markdown on", "/set markdown off"]
    assert completed("/plain of") == ["/plain off"]
    assert completed("/help un") == ["/help undo"]
    assert completed("/load ta") == ["/load talk.json"]
    for text in ("hello", "/set nonesuch ", "/undo ", "/nonesuch ", "/set temp 0"):
        assert completed(text) == []


def test_help_tells_of_every_command(tiny, capsys):
    chat = chat_with(tiny)
    chat.hear("/help")
    told = capsys.readouterr().err
    for name, command in COMMANDS.items():
        chat.hear(f"/help {name}")
        one = capsys.readouterr().err
        assert f"/{name}" in told and command.about in told
        assert command.usage in one and command.more in one


# Turns


def test_a_session(tiny, capsys, tmp_path):
    chat = chat_with(tiny)
    hello, answer = say_all(chat, "Hello!")
    assert capsys.readouterr().out == answer + "\n"
    say_all(chat, COUNT)
    assert say_all(chat, "/undo") == [hello, answer]
    assert (
        say_all(chat, "/edit List the vowels with numbers.")[1]
        == "1. a\n2. e\n3. i\n4. o\n5. u"
    )
    assert say_all(chat, "/reset") == [] and not chat.cache.tokens
    assert say_all(chat, "//list the vowels")[0] == "/list the vowels"
    chat.hear("/system Be brief.")
    assert chat.conversation.system == "Be brief."
    path = tmp_path / "a.json"
    chat.hear(f"/save {path}")
    kept = chat.conversation
    say_all(chat, "/system -", "/reset", "/set temp 1")
    assert chat.conversation == Conversation()
    chat.hear(f"/load {path}")
    assert chat.conversation == kept and chat.settings.temp == 0
    with pytest.raises(Leave):
        chat.hear("/quit")


def test_answers_are_those_of_a_fresh_run(tiny):
    from dflash_mlx import generate

    pair, tokenizer = tiny
    chat = chat_with(tiny)
    for line in ("Hello!", COUNT, "/retry", "/undo", "/edit What is 12 + 34?"):
        chat.hear(line)
        spoken = chat.conversation
        ids = tokenizer.apply_chat_template(
            spoken.retry().for_template(), add_generation_prompt=True
        )
        fresh = generate(pair, tokenizer, ids, max_tokens=60)
        assert spoken.messages[-1].content == fresh


def test_edit_without_text_offers_the_message(tiny):
    reader = Typed("List the vowels with numbers.")
    chat = Chat(Given(what=tiny), reader)
    chat.hear("Hello!")
    chat.hear("/edit")
    assert reader.offered == ["Hello!"]
    assert chat.conversation.question == "List the vowels with numbers."
    before = chat.conversation
    for given_up in (KeyboardInterrupt, None, " "):
        reader.lines = [given_up]
        chat.hear("/edit")
        assert chat.conversation == before
    reader.edits = False
    with pytest.raises(CommandError, match="needs the new text"):
        chat.hear("/edit")


def test_paste_is_one_message_whatever_it_says(tiny):
    chat = Chat(Given(what=tiny), Typed("/reset\nq\n", None))
    chat.hear("/paste")
    assert chat.conversation.question == "/reset\nq\n"
    before = chat.conversation
    chat.hear("/paste")
    assert chat.conversation == before


def test_plain_answers_the_same(tiny, capsys):
    chat = chat_with(
        tiny, block_size=4, draft="tiny-drafter"
    )  # a name clashes with --plain
    first = say_all(chat, COUNT)
    assert "dflash: " in capsys.readouterr().err
    chat.hear("/plain")
    assert say_all(chat, "/retry") == first
    assert "plain (drafting is off)" in capsys.readouterr().err
    chat.hear("/plain off")
    assert "Drafting." in capsys.readouterr().err
    chat.hear("/retry")
    assert "dflash: " in capsys.readouterr().err


def test_stats_tell_the_answer_and_the_session(tiny, capsys):
    chat = chat_with(tiny, block_size=4)
    chat.hear("/stats")
    assert "There are no answers yet." in capsys.readouterr().err
    say_all(chat, COUNT, "Hello!", "/stats")
    told = capsys.readouterr().err
    tokens = sum(stats.tokens for stats in chat.tally.answers)
    assert f"Session: 2 answers, {tokens} tokens" in told
    assert told.count("drafts accepted:") == 2 == told.count("rounds by width:")


def test_an_answer_cut_by_max_tokens_says_how_to_get_more(tiny, capsys):
    chat = chat_with(tiny, max_tokens=5)
    short = say_all(chat, "List the vowels with numbers.")[1]
    assert "use /set max_tokens 10 and /retry" in capsys.readouterr().err
    say_all(chat, "/set max_tokens 500")
    longer = say_all(chat, "/retry")[1]
    assert longer.startswith(short) and longer.endswith("5. u")
    assert "cut" not in capsys.readouterr().err


@pytest.fixture
def narrow(tiny):
    """The embedded pair as if its context were short."""
    pair, tokenizer = tiny
    target = pair.target
    context, target.context = target.context, 96
    yield tiny
    target.context = context


def test_the_end_of_the_context(narrow, capsys):
    reader = Typed("Hello!", COUNT, "Hello!", "/undo", "/undo", "Hello!", None)
    chat = Chat(Given(what=narrow), reader)
    chat.talk()
    told = capsys.readouterr().err
    assert "the model's context of 96 tokens is full" in told
    assert "the model's context ends at 96" in told
    # The refused message was offered to edit; it and the long turn were taken back.
    assert reader.offered[3] == "Hello!"
    questions = [m.content for m in chat.conversation.messages if m.role == "user"]
    assert questions == ["Hello!", "Hello!"]


def test_a_refused_message_leaves_the_conversation(narrow):
    chat = chat_with(narrow)
    chat.hear("Hello!")
    before = chat.conversation
    chat.hear("word " * 200)
    assert chat.conversation == before and chat.latest.question == "word " * 200
    chat.hear(COUNT)
    assert chat.conversation.question == COUNT and chat.pending is None


def test_a_refused_message_is_offered_as_the_line_that_sends_it(narrow):
    reader = Typed("//" + "word " * 200, None)
    Chat(Given(what=narrow), reader).talk()
    assert reader.offered[1] == "//" + "word " * 200


def test_a_template_that_refuses(tiny, capsys):
    pair, tokenizer = load("tiny")
    tokenizer.chat_template = "{{ raise_exception('no system role') }}"
    chat = chat_with((pair, tokenizer))
    chat.hear("Hello!")
    assert "no system role" in capsys.readouterr().err
    assert chat.conversation.messages == () and chat.latest.question == "Hello!"


def test_a_bug_in_a_turn_is_a_traceback_and_the_chat_goes_on(tiny, capsys, monkeypatch):
    chat = chat_with(tiny)
    chat.hear("Hello!")
    before = chat.conversation

    class Broken(Display):
        def push(self, response):
            raise ZeroDivisionError("a bug")

    monkeypatch.setattr(chat, "display", lambda ids: Broken(Console()))
    chat.hear(COUNT)
    told = capsys.readouterr().err
    assert "ZeroDivisionError: a bug" in told and "Traceback" in told
    assert chat.conversation == before
    assert not chat.cache.tokens  # what it holds is in doubt
    monkeypatch.undo()
    chat.hear("/retry")
    fresh = chat_with(tiny)
    say_all(fresh, "Hello!", COUNT)
    assert chat.conversation == fresh.conversation


# Ctrl-C


def other(family):
    """A random model of a family, with the embedded tokenizer's words."""
    config = architectures.config_of(family) | {"vocab_size": 512}
    module = import_module(f"mlx_lm.models.{family}")
    model = module.Model(module.ModelArgs.from_dict(config))
    return randomize_weights(model, "float32", **architectures.SPREAD.get(family, {}))


@pytest.fixture(scope="module", params=("tiny", "qwen3_next", "gemma3_text"))
def any_kind(request, tiny):
    if request.param == "tiny":
        return tiny
    return Pair.of(other(request.param)), tiny[1]


def held(chat):
    """The text that the caches hold."""
    return chat.tokenizer.decode(chat.cache.tokens + chat.cache.tail)


@pytest.mark.parametrize("at", (7, 40))
def test_ctrl_c_keeps_what_was_said(any_kind, at, capsys):
    how = {"max_tokens": 60, "sampling": NEVER, "block_size": 4}
    chat = chat_with(any_kind, presses=(at,), **how)
    chat.hear(COUNT)
    asked, stopped = (each.content for each in chat.conversation.messages)
    captured = capsys.readouterr()
    assert "(stopped)" in captured.err and captured.out == stopped + "\n"
    assert not chat.cache.broken
    tokens = chat.tally.answers[-1].tokens
    assert at <= tokens < 60
    assert held(chat).endswith(stopped) or "\ufffd" in held(chat)
    # A follow-up goes on from there, and so does a fresh run.
    chat.ask = replace(chat.ask, presses=(), max_tokens=12)
    chat.settings = Settings.of(chat.ask)
    chat.hear("Hello!")
    fresh = chat_with(any_kind, max_tokens=12, sampling=NEVER)
    fresh.conversation = chat.conversation.undo()
    fresh.hear("Hello!")
    assert fresh.conversation == chat.conversation
    assert asked == COUNT and stopped in chat.conversation.messages[1].content


def test_a_follow_up_of_a_stopped_answer_is_cached(tiny):
    chat = chat_with(tiny, presses=(20,))
    chat.hear(COUNT)
    tokens = len(chat.cache.tokens) + len(chat.cache.tail)
    chat.ask = replace(chat.ask, presses=())
    chat.hear("Hello!")
    # Words may be spelled with other tokens at the cut.
    assert chat.tally.answers[-1].cached_tokens >= tokens - 3


def test_only_what_is_new_is_read(any_kind):
    chat = chat_with(any_kind, max_tokens=8)
    say_all(chat, "Hello!", COUNT, "/retry", "/edit " + COUNT + " Now!")
    new = [stats.prompt_tokens for stats in chat.tally.answers]
    assert all(stats.cached_tokens for stats in chat.tally.answers[1:])
    assert new[2] == 1 and new[3] < 25


def test_ctrl_c_while_the_prompt_is_read(any_kind, capsys):
    chat = chat_with(any_kind, max_tokens=8)
    chat.hear("Hello!")
    before = chat.conversation
    chat.ask = replace(chat.ask, in_prompt=4, prefill_step_size=4)
    chat.hear(COUNT)
    assert "stopped before the answer began; /retry" in capsys.readouterr().err
    assert chat.conversation == before and chat.latest.question == COUNT
    assert not chat.cache.broken
    chat.ask = replace(chat.ask, in_prompt=None)
    chat.hear("/retry")
    fresh = chat_with(any_kind, max_tokens=8)
    fresh.conversation = before
    fresh.hear(COUNT)
    assert chat.conversation == fresh.conversation and chat.pending is None


def test_a_stopped_retry_or_edit_keeps_the_old_answer(tiny):
    chat = chat_with(tiny)
    chat.hear("Hello!")
    before = chat.conversation
    chat.ask = replace(chat.ask, in_prompt=0)
    for line in ("/retry", "/edit " + COUNT):
        chat.hear(line)
        assert chat.conversation == before and chat.pending is not None
    chat.hear("/undo")  # of the message that got no answer
    assert chat.conversation == before and chat.pending is None
    chat.hear("/undo")
    assert chat.conversation == Conversation()


def test_a_second_ctrl_c_cuts_at_once(any_kind):
    how = {"max_tokens": 60, "sampling": NEVER, "block_size": 4}
    chat = chat_with(any_kind, presses=(3,), **how)

    class Twice(Display):
        def push(self, response):
            super().push(response)
            if response.generation_tokens == 3:
                signal.raise_signal(signal.SIGINT)

    shown, chat.display = chat.display, lambda ids: Twice(Console())
    chat.hear(COUNT)
    assert chat.tally.answers[-1].tokens >= 3 and not chat.conversation.open
    chat.ask, chat.display = replace(chat.ask, presses=()), shown
    chat.hear("/retry")
    fresh = chat_with(any_kind, **how)
    fresh.hear(COUNT)
    assert chat.conversation == fresh.conversation


def test_the_handler_is_there_for_the_answer_only(tiny):
    before = signal.getsignal(signal.SIGINT)
    chat_with(tiny, presses=(2,)).hear(COUNT)
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_at_the_prompt_says_how_to_leave(tiny, capsys):
    chat = chat_with(tiny, KeyboardInterrupt, "Hello!", None)
    chat.talk()
    assert "Ctrl-D or /quit leaves." in capsys.readouterr().err
    assert chat.conversation.question == "Hello!"


def test_ctrl_c_ends_what_reads_a_pipe(tiny):
    chat = chat_with(tiny, COUNT, "never read", presses=(3,))
    chat.reader.terminal = False
    with pytest.raises(KeyboardInterrupt):
        chat.talk()
    assert chat.reader.lines == ["never read"]


# The history of lines


def test_history_across_sessions(tmp_path):
    file = tmp_path / "data" / "history.jsonl"
    said = []
    one = history.FileHistory(file, said.append)
    two = history.FileHistory(file, said.append)
    for each, text in ((one, "first"), (two, "日本語 🦎"), (one, "two\nlines\u2028")):
        each.append_string(text)
    assert file.stat().st_mode & 0o777 == 0o600
    later = history.FileHistory(file, said.append)
    assert list(later.load_history_strings()) == [
        "two\nlines\u2028",
        "日本語 🦎",
        "first",
    ]
    assert said == []


@pytest.mark.parametrize("bad", (b'"cut off', b"\xff\xfe\n", b"17\n", b"[" * 100_000))
def test_a_broken_history_is_set_aside(tmp_path, bad):
    file = tmp_path / "history.jsonl"
    for n in range(2):
        content = b'"first"\n' + bad
        file.write_bytes(content)
        said = []
        lines = history.FileHistory(file, said.append)
        assert list(lines.load_history_strings()) == ["first"]
        aside = tmp_path / ("history.jsonl.broken" + ("-2" if n else ""))
        assert aside.read_bytes() == content and str(aside) in said[0]
        lines.append_string("second")
        again = history.FileHistory(file, said.append)
        assert again.entries == ["first", "second"] and len(said) == 1


def test_a_history_that_others_could_read_is_closed(tmp_path):
    file = tmp_path / "history.jsonl"
    file.write_text('"first"\n')
    file.chmod(0o644)
    history.FileHistory(file, print).append_string("second")
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_long_history_is_cut(tmp_path):
    file = tmp_path / "history.jsonl"
    history.append(file, [str(n) for n in range(history.MOST + 1)])
    lines = history.FileHistory(file, print)
    assert lines.entries == [str(n) for n in range(1001, history.MOST + 1)]
    assert history.read(file) == (lines.entries, True)
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_history_that_cannot_be_kept_is_said_once(tmp_path):
    (tmp_path / "data").write_text("a file, no folder")
    said = []
    lines = history.FileHistory(tmp_path / "data" / "history.jsonl", said.append)
    lines.append_string("a")
    lines.append_string("b")
    assert len(said) == 1 and "not kept" in said[0]
    assert lines.get_strings() == ["a", "b"]


def test_the_history_is_in_this_users_folder():
    assert history.folder().is_relative_to(Path.home())


def test_ctrl_c_is_heard_though_it_interrupts_no_read():
    """As one that comes just before the read, or to another thread."""
    end, other = os.pipe()
    late = threading.Timer(5, os.write, (other, b"nothing heard\n"))
    late.start()

    def press():
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    with os.fdopen(end, "rb") as source, pytest.raises(KeyboardInterrupt):
        threading.Timer(0.3, press).start()
        Lines(source, terminal=True).read()
    assert late.is_alive()
    late.cancel()
    os.close(other)


def test_lines_of_a_pipe():
    from io import BytesIO

    lines = Lines(
        BytesIO("a\r\nб\\\n\xff".encode() + b"\xff\nlast\nmore".replace(b"x", b""))
    )
    assert lines.read() == "a" and lines.read() == "б\\"
    with pytest.raises(PromptError, match="UTF-8"):
        lines.read()
    assert lines.paste() == "last\nmore"
    assert lines.read() is None and lines.paste() is None
