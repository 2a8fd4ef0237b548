"""A conversation: its system prompt, its messages, and the file that stores it.

Owns the messages and the file format. Does not know terminals or models. A
Conversation is immutable: each step returns a new one, so that a turn that fails leaves
the old one unchanged.
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
    """A message of the user or the assistant.

    Args:
        role: One of ROLES.
        content: Its text.
        reasoning: The reasoning that preceded the content of an answer.
    """

    role: str
    content: str
    reasoning: str = ""


@dataclass(frozen=True)
class Conversation:
    """A system prompt, and user messages with their answers.

    Args:
        system: The system prompt, if any.
        messages: Messages of alternating roles, the user's first. The last one may
            have no answer yet.
    """

    system: str | None = None
    messages: tuple[Message, ...] = ()

    @property
    def unanswered(self) -> bool:
        """Whether the last message is the user's."""
        return bool(self.messages) and self.messages[-1].role == "user"

    @property
    def last_question(self) -> str | None:
        """The user's last message, or None."""
        questions = [each.content for each in self.messages if each.role == "user"]
        return questions[-1] if questions else None

    def template_messages(self) -> list[dict[str, str]]:
        """The messages as chat templates take them.

        Reasoning is passed as `reasoning_content`. Templates that know it keep or drop
        it as their model expects; the others ignore it.
        """
        messages = []
        if self.system is not None:
            messages.append({"role": "system", "content": self.system})
        for each in self.messages:
            messages.append({"role": each.role, "content": each.content})
            if each.reasoning:
                messages[-1]["reasoning_content"] = each.reasoning
        return messages

    def with_question(self, text: str) -> Conversation:
        """Add a message of the user's, in place of one that has no answer."""
        answered = self.messages[:-1] if self.unanswered else self.messages
        return self._with(*answered, Message("user", text))

    def with_answer(self, content: str, reasoning: str = "") -> Conversation:
        """Add the answer to the last message."""
        return self._with(*self.messages, Message("assistant", content, reasoning))

    def with_more(self, content: str, reasoning: str = "") -> Conversation:
        """Add to the last answer."""
        last = self.messages[-1]
        more = Message(last.role, last.content + content, last.reasoning + reasoning)
        return self._with(*self.messages[:-1], more)

    def undo(self) -> Conversation:
        """Remove the user's last message and its answer.

        Raises:
            CommandError: There is no message; as in `retry` and `edit`.
        """
        return self._with(*self._before_question())

    def retry(self) -> Conversation:
        """Remove the answer to the user's last message."""
        return self.edit(self.last_question or "")

    def edit(self, text: str) -> Conversation:
        """Replace the user's last message, and remove its answer."""
        return self._with(*self._before_question(), Message("user", text))

    def reset(self) -> Conversation:
        """Keep only the system prompt."""
        return self._with()

    def _with(self, *messages: Message) -> Conversation:
        return replace(self, messages=messages)

    def _before_question(self) -> tuple[Message, ...]:
        if self.last_question is None:
            raise CommandError("There is no message yet.", "Send one first.")
        return self.messages[: -1 if self.unanswered else -2]


@dataclass(frozen=True)
class Record:
    """The content of a conversation file.

    Args:
        conversation: The conversation.
        model: The name of the model that answered.
        drafter: The name of its drafter, if any.
        settings: The chat's settings, by name.
    """

    conversation: Conversation
    model: str
    drafter: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)


def save_record(record: Record, path: Path) -> None:
    """Write a record, completely or not at all.

    Raises:
        ConversationError: It cannot be written, or the file holds something else.
    """
    conversation = record.conversation
    content = {
        "format": FORMAT,
        "version": VERSION,
        "model": record.model,
        "drafter": record.drafter,
        "settings": record.settings,
        "system": conversation.system,
        "messages": [asdict(each) for each in conversation.messages],
    }
    try:
        if path.exists():
            check_replaceable(path)
        partial = path.with_name(f".saving-{os.getpid()}")
        try:
            text = json.dumps(content, indent=1, ensure_ascii=False)
            partial.write_text(text, "utf-8")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except (OSError, ValueError) as error:  # ValueError: an impossible file name
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConversationError(
            f"{path} cannot be written: {reason}.", "Choose another file."
        ) from None


def check_replaceable(path: Path) -> None:
    """Raise ConversationError unless `path` is a conversation file."""
    try:
        load_record(path)
    except ConversationError:
        raise ConversationError(
            f"{path} already exists and is not a saved conversation.",
            "Choose another file.",
        ) from None


def load_record(path: Path) -> Record:
    """Read a record.

    Raises:
        ConversationError: The file cannot be read, or is not a valid conversation.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
        # Fails on half of a surrogate pair, such as \ud800.
        json.dumps(content, ensure_ascii=False).encode()
    except OSError as error:
        raise ConversationError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError):
        raise invalid_file(path, "it is not valid JSON") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise invalid_file(path, f"its format is not {FORMAT!r}")
    if content.get("version") != VERSION:
        raise invalid_file(path, f"only version {VERSION} of the format is supported")
    names = ("model", "drafter", "system")
    model, drafter, system = (content.get(name) for name in names)
    for name, value in zip(names, (model, drafter, system), strict=True):
        if not (isinstance(value, str) or (value is None and name != "model")):
            raise invalid_file(path, f"its {name} is not text")
    settings = content.get("settings")
    if not isinstance(settings, dict):
        raise invalid_file(path, "its settings are not an object")
    messages = parse_messages(content.get("messages"), path)
    return Record(Conversation(system, messages), model, drafter, settings)


def parse_messages(items: Any, path: Path) -> tuple[Message, ...]:
    """The messages of a file.

    Raises:
        ConversationError: They are not messages of alternating roles.
    """
    if not isinstance(items, list):
        raise invalid_file(path, "its messages are not a list")
    for i, item in enumerate(items):
        texts = isinstance(item, dict) and all(
            isinstance(item.get(name, ""), str) for name in ("content", "reasoning")
        )
        role = ROLES[i % 2]
        if not texts or "content" not in item or item.get("role") != role:
            raise invalid_file(path, f"message {i + 1} is not a text of the {role}")
    return tuple(
        Message(item["role"], item["content"], item.get("reasoning", ""))
        for item in items
    )


def invalid_file(path: Path, reason: str) -> ConversationError:
    """The error for a file that is not a valid conversation."""
    return ConversationError(
        f"{path} is not a saved conversation: {reason}.",
        "The current conversation is unchanged.",
    )
