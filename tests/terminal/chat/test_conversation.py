"""Conversations and the files that store them, without a model."""

import json

import pytest

from dflash_mlx.errors import CommandError, ConversationError
from dflash_mlx.terminal.chat.conversation import (
    FORMAT,
    Conversation,
    Message,
    Record,
    load_record,
    save_record,
)


def test_steps_of_a_conversation():
    first = Conversation("Be brief.").with_question("a").with_answer("1", "why")
    first = first.with_question("b").with_answer("2")
    assert first.last_question == "b" and not first.unanswered
    assert first.undo().last_question == "a" and len(first.undo().messages) == 2
    again = first.retry()
    assert again.unanswered and again.last_question == "b"
    assert again.undo() == first.undo()
    assert first.edit("c").messages == (*first.messages[:2], Message("user", "c"))
    assert again.edit("c") == first.edit("c")
    assert again.with_question("d") == first.edit("d")  # it had no answer
    assert first.reset() == Conversation("Be brief.")
    assert first.template_messages()[:3] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "1", "reasoning_content": "why"},
    ]
    for step in ("undo", "retry"):
        with pytest.raises(CommandError, match="There is no message yet"):
            getattr(Conversation(), step)()


def test_a_saved_record_loads_unchanged(tmp_path):
    conversation = Conversation("Sé breve. 🦎").with_question("日本語\n")
    conversation = conversation.with_answer("\x1b[31m", "hm")
    record = Record(conversation, "tiny", "none", {"temp": 0.5, "seed": None})
    path = tmp_path / "a b.json"
    save_record(record, path)
    save_record(record, path)  # over itself
    assert load_record(path) == record
    content = json.loads(path.read_text("utf-8"))
    assert content["format"] == FORMAT and content["version"] == 1
    assert list(tmp_path.iterdir()) == [path]


def test_save_does_not_replace_another_file(tmp_path):
    path = tmp_path / "thesis.txt"
    path.write_text("years of work")
    record = Record(Conversation(), "tiny")
    with pytest.raises(ConversationError, match="already exists"):
        save_record(record, path)
    assert path.read_text() == "years of work"
    with pytest.raises(ConversationError, match="No such file or directory"):
        save_record(record, tmp_path / "none" / "a.json")
    with pytest.raises(ConversationError):
        save_record(record, tmp_path)
