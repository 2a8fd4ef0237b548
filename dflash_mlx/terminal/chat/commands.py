"""The slash commands of a chat: a table of names, words and functions.

Owns how a line is told apart into command and message. What the commands change is
chat.py's; the functions here say what was done.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import CommandError
from ..screen.status import print_message
from .settings import KINDS, SWITCH, written

if TYPE_CHECKING:
    from .session import Chat

# As in mlx-lm, alone on a line.
LETTERS = {"q": "/quit", "r": "/reset", "h": "/help"}
KEYS = """\
Enter sends; Alt-Enter, or a backslash before Enter, begins a new line.
Ctrl-C stops an answer and keeps it, or clears the line; Ctrl-D leaves.
Up and down bring back earlier lines, Ctrl-R searches them, Tab completes commands.
//text sends text that begins with a slash; q, r, h alone are /quit, /reset, /help."""


class Leave(Exception):
    """The user is done."""


@dataclass(frozen=True)
class Command:
    """One command.

    Args:
        run: Called with the chat and the text behind the name.
        usage: The arguments, for help.
        about: One line of help.
        more: Further lines for /help NAME.
        words: What Tab offers behind the name; None for file names.
    """

    run: Callable[[Chat, str], None]
    usage: str
    about: str
    more: str = ""
    words: tuple[str, ...] | None = field(default=())


def parse(line: str) -> tuple[str, str] | None:
    """A line's command and argument; None if it is a message.

    A path or a comment that begins with a slash is a message.

    Raises:
        CommandError: It looks like a command, but there is none of that name.
    """
    line = LETTERS.get(line, line)
    found = re.fullmatch(r"/([A-Za-z]+)(?:\s+(.*))?", line, re.DOTALL)
    if found is None:
        return None
    name, argument = found[1].lower(), (found[2] or "").strip()
    return check_name(name), argument


def message(line: str) -> str:
    """The text of a line that is no command."""
    return line[1:] if line.startswith("//") else line


def line_of(text: str) -> str:
    """The line that sends `text` as a message: the reverse of `message`."""
    return f"/{text}" if text.startswith("/") else text


def check_name(name: str) -> str:
    """`name` without a slash, if it is a command's.

    Raises:
        CommandError: It is none; the nearest is suggested.
    """
    name = name.removeprefix("/")
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
        hint = f"Did you mean /{near[0]}? " if near else ""
        raise CommandError(
            f"There is no command /{name}.", f"{hint}/help lists all, // sends a slash."
        )
    return name


def show_help(chat: Chat, argument: str) -> None:
    """The table, or one entry of it."""
    if argument:
        name = check_name(argument)
        command = COMMANDS[name]
        print_message(f"/{name} {command.usage}".rstrip() + f": {command.about}.")
        if command.more:
            print_message(command.more)
        return
    heads = {name: f"/{name} {each.usage}".rstrip() for name, each in COMMANDS.items()}
    width = max(map(len, heads.values()))
    for name, command in COMMANDS.items():
        print_message(f"{heads[name]:{width}}  {command.about}")
    print_message(KEYS)


def reset(chat: Chat, argument: str) -> None:
    """Start anew."""
    chat.reset()
    print_message("Forgotten.")


def retry(chat: Chat, argument: str) -> None:
    """The last question once more; its old answer stays until there is a new one."""
    chat.respond(chat.latest.retry())


def undo(chat: Chat, argument: str) -> None:
    """The last turn, or the question that got no answer, is gone."""
    taken = chat.latest.question
    chat.undo()
    print_message(f"Taken back: {brief(taken)}")


def edit(chat: Chat, argument: str) -> None:
    """Another question in place of the last one."""
    text = argument or chat.edited(chat.latest.retry().question)
    if text and text.strip():
        chat.respond(chat.latest.edit(text))
    else:
        print_message("Nothing is changed.")


def system(chat: Chat, argument: str) -> None:
    """Change and show the system prompt."""
    if argument:
        chat.set_system(None if argument == "-" else argument)
    told = chat.conversation.system
    known = f"System prompt: {brief(told, 2000)}" if told is not None else ""
    print_message(known or "There is no system prompt.")


def set_value(chat: Chat, argument: str) -> None:
    """List the settings or change one."""
    if not argument:
        for name, value in chat.settings.as_dict().items():
            print_message(f"{name:10}  {written(value):6}  {KINDS[name].about}")
        return
    name, _, text = argument.partition(" ")
    if not text.strip():
        raise CommandError("/set needs a name and a value.", "For example /set temp 1.")
    chat.change(chat.settings.changed(name, text.strip()))
    print_message(f"{name} is {text.strip()}.")


def stats(chat: Chat, argument: str) -> None:
    """Show the counters."""
    print_message(chat.tally.report())


def plain(chat: Chat, argument: str) -> None:
    """Switch drafting."""
    if argument not in ("", *SWITCH):
        raise CommandError(f"/plain takes on or off, not {argument!r}.")
    on = SWITCH[argument] if argument else not chat.settings.plain
    chat.set_plain(on)
    engine, reason = chat.engine()
    drafting = engine == "dflash"
    print_message("Drafting." if drafting else f"Decoding plainly: {reason}.")


def save(chat: Chat, argument: str) -> None:
    """Write a file."""
    path = file_of(argument, "/save")
    chat.save(path)
    print_message(f"Saved in {path}.")


def load(chat: Chat, argument: str) -> None:
    """Read a file."""
    path = file_of(argument, "/load")
    record = chat.load(path)
    print_message(f"Loaded {len(record.conversation.messages)} messages from {path}.")
    if record.model != chat.ask.model:
        print_message(f"{record.model} answered them; {chat.ask.model} goes on.")


def paste(chat: Chat, argument: str) -> None:
    """Many lines are one message, whatever they look like."""
    if chat.reader.terminal:
        print_message(
            "Paste or type; Ctrl-D on a line of its own sends, Ctrl-C gives up."
        )
    text = chat.reader.paste()
    if text is None or not text.strip():
        print_message("Nothing is sent.")
    else:
        chat.hear_message(text)


def leave(chat: Chat, argument: str) -> None:
    """End the chat."""
    raise Leave


def file_of(argument: str, command: str) -> Path:
    """A file's name from the text behind a command."""
    if not argument:
        raise CommandError(f"{command} needs a file.", f"For example {command} a.json.")
    try:
        return Path(argument).expanduser()
    except RuntimeError:
        raise CommandError(f"There is no home for {argument}.") from None


def brief(text: str, most: int = 60) -> str:
    """A text's beginning in one line, fit to be printed."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return line if len(line) <= most else line[: most - 3] + "..."


COMMANDS = {
    "help": Command(show_help, "[command]", "list the commands, or tell of one"),
    "reset": Command(reset, "", "forget the conversation; the system prompt stays"),
    "retry": Command(
        retry,
        "",
        "answer the last message again",
        "Also after an answer that was stopped before it began, or was refused.",
    ),
    "undo": Command(undo, "", "take back the last message and its answer"),
    "edit": Command(
        edit,
        "[text]",
        "change the last message and answer it anew",
        "Without text, the message is offered to edit.",
    ),
    "system": Command(
        system, "[text]", "show or change the system prompt", "/system - removes it."
    ),
    "set": Command(
        set_value,
        "[name value]",
        "list the settings, or change one",
        "For example /set temp 0.7, /set thinking off, /set seed none.",
        tuple(KINDS),
    ),
    "stats": Command(stats, "", "counters of the last answer and of the session"),
    "plain": Command(
        plain,
        "[on|off]",
        "switch drafting off or on",
        "The answers stay the same; compare their speed in the status lines.",
        tuple(SWITCH),
    ),
    "save": Command(save, "FILE", "write the conversation to a file", "", None),
    "load": Command(
        load,
        "FILE",
        "go on with a saved conversation",
        "Its system prompt and settings come with it; the model stays this one.",
        None,
    ),
    "paste": Command(
        paste,
        "",
        "send many lines as one message, up to Ctrl-D",
        "For terminals that cannot tell what is pasted from what is typed.",
    ),
    "quit": Command(leave, "", "leave"),
}
