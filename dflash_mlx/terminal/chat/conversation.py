"""A conversation: its system prompt, its messages, and the file that keeps them.

Owns what was said. Knows no terminal and no model. A Conversation never changes: each
step gives a new one, so that a turn that fails leaves the old one as it was.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ...errors import CommandError, ConversationError

FORMAT = "dflash-mlx conversation"
VERSION = 1
ROLES = ("user", "assistant")


@dataclass(frozen=True)
class Message:
    """What one side said; `reasoning` is what an answer thought before its content."""

    role: str
    content: str
    reasoning: str = ""


@dataclass(frozen=True)
class Conversation:
    """Questions and answers by turns.

    Args:
        system: The system prompt, if any.
        messages: A user's first; the last one may be a question without answer.
    """

    system: str | None = None
    messages: tuple[Message, ...] = ()

    @property
    def open(self) -> bool:
        """Whether its last message waits for an answer."""
        return bool(self.messages) and self.messages[-1].role == "user"

    @property
    def question(self) -> str | None:
        """What the user said last."""
        asked = [each.content for each in self.messages if each.role == "user"]
        return asked[-1] if asked else None

    def for_template(self) -> list[dict[str, str]]:
        """Messages as chat templates take them.

        Reasoning is told as `reasoning_content`: templates that know it keep or drop
        it as their model wants; the others never show it to the model again.
        """
        told = []
        if self.system is not None:
            told.append({"role": "system", "content": self.system})
        for each in self.messages:
            told.append({"role": each.role, "content": each.content})
            if each.reasoning:
                told[-1]["reasoning_content"] = each.reasoning
        return told

    def ask(self, text: str) -> Conversation:
        """With a question behind it."""
        return self._with(*self._answered(), Message("user", text))

    def answer(self, content: str, reasoning: str = "") -> Conversation:
        """With the answer to its open question."""
        return self._with(*self.messages, Message("assistant", content, reasoning))

    def undo(self) -> Conversation:
        """Without the last question and its answer.

        Raises:
            CommandError: Nothing was asked yet; as in `retry` and `edit`.
        """
        return self._with(*self._before_question())

    def retry(self) -> Conversation:
        """With the last question open again."""
        return self.edit(self.question or "")

    def edit(self, text: str) -> Conversation:
        """With `text` in place of the last question, open."""
        return self._with(*self._before_question(), Message("user", text))

    def reset(self) -> Conversation:
        """Only the system prompt."""
        return self._with()

    def _with(self, *messages):
        return replace(self, messages=messages)

    def _answered(self):
        return self.messages[:-1] if self.open else self.messages

    def _before_question(self):
        if self.question is None:
            raise CommandError("Nothing was asked yet.", "Write a message first.")
        return self.messages[: -1 if self.open else -2]


@dataclass(frozen=True)
class Record:
    """A conversation as a file keeps it.

    Args:
        conversation: What was said.
        model: Who answered.
        drafter: Who drafted, if anybody.
        settings: Names to values, as the chat had them.
    """

    conversation: Conversation
    model: str
    drafter: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)


def save(record: Record, path: Path) -> None:
    """Write a record, whole or not at all.

    Raises:
        ConversationError: It cannot be written, or something else is there.
    """
    spoken = record.conversation
    told = {
        "format": FORMAT,
        "version": VERSION,
        "model": record.model,
        "drafter": record.drafter,
        "settings": record.settings,
        "system": spoken.system,
        "messages": [asdict(each) for each in spoken.messages],
    }
    try:
        if path.exists():
            refuse_to_replace(path)
        draft = path.with_name(f".saving-{os.getpid()}")
        try:
            draft.write_text(json.dumps(told, indent=1, ensure_ascii=False), "utf-8")
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except (OSError, ValueError) as error:  # ValueError: no name that a file can have
        why = error.strerror if isinstance(error, OSError) else error
        raise ConversationError(
            f"{path} cannot be written: {why}.", "Name another file."
        ) from None


def refuse_to_replace(path: Path) -> None:
    """Raise ConversationError unless `path` holds a conversation."""
    try:
        load(path)
    except ConversationError:
        raise ConversationError(
            f"{path} is there already and is no conversation.", "Name another file."
        ) from None


def load(path: Path) -> Record:
    """Read a record.

    Raises:
        ConversationError: There is no such file, or it is broken or no conversation.
    """
    try:
        told = json.loads(path.read_text("utf-8"))
        json.dumps(told, ensure_ascii=False).encode()  # \ud800 is no character
    except OSError as error:
        raise ConversationError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError):
        raise broken(path, "it is no JSON text") from None
    if not isinstance(told, dict) or told.get("format") != FORMAT:
        raise broken(path, f"its format is not {FORMAT!r}")
    if told.get("version") != VERSION:
        raise broken(path, f"this version reads version {VERSION} only")
    names = ("model", "drafter", "system")
    model, drafter, system = (told.get(name) for name in names)
    for name, value in zip(names, (model, drafter, system), strict=True):
        if not (isinstance(value, str) or (value is None and name != "model")):
            raise broken(path, f"its {name} is no text")
    settings = told.get("settings")
    if not isinstance(settings, dict):
        raise broken(path, "it has no settings")
    spoken = Conversation(system, read_messages(told.get("messages"), path))
    return Record(spoken, model, drafter, settings)


def read_messages(told: Any, path: Path) -> tuple[Message, ...]:
    """A file's messages, questions and answers by turns.

    Raises:
        ConversationError: They are not.
    """
    if not isinstance(told, list):
        raise broken(path, "it has no messages")
    for i, each in enumerate(told):
        texts = isinstance(each, dict) and all(
            isinstance(each.get(name, ""), str) for name in ("content", "reasoning")
        )
        if not texts or "content" not in each or each.get("role") != ROLES[i % 2]:
            raise broken(path, f"message {i + 1} is no text of the {ROLES[i % 2]}'s")
    return tuple(
        Message(each["role"], each["content"], each.get("reasoning", ""))
        for each in told
    )


def broken(path: Path, why: str) -> ConversationError:
    """The error for a file that is no conversation."""
    return ConversationError(
        f"{path} is no conversation that can be read: {why}.",
        "The present conversation goes on.",
    )
