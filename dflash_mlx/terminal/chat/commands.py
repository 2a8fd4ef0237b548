"""The slash commands of a chat: a table of names, help texts and functions.

Owns the wording of their messages. The session makes the changes; it does not know
commands.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...errors import CommandError
from ..screen.status import print_message
from .conversation import Record
from .lines import ALIASES, line_of, message_of, parse_command
from .session import Session
from .settings import SETTING_TYPES, SWITCH, format_value, setting_name
from .transcript import print_turns

KEYS = """\
Enter sends; Alt-Enter, or a backslash before Enter, starts a new line.
\"""text of several lines\""" is one message, in which nothing is a command.
Ctrl-C stops an answer and keeps its text, or clears the line; Ctrl-D quits.
Up and Down recall earlier lines, Ctrl-R searches them, Tab completes commands.
To send text that begins with a slash, write two: //text.
As in other chats: q, exit, /bye, /exit quit; r, /clear reset; h, /? help."""


class Quit(Exception):
    """Raised by /quit."""


@dataclass(frozen=True)
class Command:
    """A command.

    Args:
        run: Called with the session and the command's argument.
        usage: The argument, for help.
        summary: One line of help.
        details: A further line for /help NAME.
        words: The words that Tab completes after the name; None for file names.
    """

    run: Callable[[Session, str], None]
    usage: str
    summary: str
    details: str = ""
    words: tuple[str, ...] | None = ()


def check_name(name: str) -> str:
    """The name of a command, without a slash.

    Raises:
        CommandError: There is no such command; the error suggests the nearest.
    """
    name = name.removeprefix("/")
    name = ALIASES.get(name, name)
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
        suggestion = f"Did you mean /{near[0]}? " if near else ""
        raise CommandError(
            f"There is no command /{name}.",
            f"{suggestion}/help lists the commands; to send a message that begins with "
            "a slash, start it with //.",
        )
    return name


def show_help(session: Session, argument: str) -> None:
    """List the commands, or describe one."""
    if argument:
        name = check_name(argument)
        command = COMMANDS[name]
        print_message(f"/{name} {command.usage}".rstrip() + f": {command.summary}.")
        if command.details:
            print_message(command.details)
        return
    heads = {name: f"/{name} {each.usage}".rstrip() for name, each in COMMANDS.items()}
    width = max(map(len, heads.values()))
    for name, command in COMMANDS.items():
        print_message(f"{heads[name]:{width}}  {command.summary}")
    print_message(KEYS)


def reset(session: Session, argument: str) -> None:
    """Clear the conversation."""
    if session.reset():
        print_message("The conversation is cleared. /undo brings it back.")
    else:
        print_message("The conversation is empty.")


def retry(session: Session, argument: str) -> None:
    """Answer the last message again; its answer is kept until there is a new one."""
    session.answer(session.latest.retry())


def undo(session: Session, argument: str) -> None:
    """Remove the last message and its answer, or take a reset back."""
    if session.undo_reset():
        print_message("The conversation is back. Its last turn:")
        print_turns(session.latest, 1)
        return
    removed = session.latest.last_question
    session.undo()
    print_message(f"Removed: {shorten(removed)}")


def edit(session: Session, argument: str) -> None:
    """Change the last message and answer it.

    A command that is typed in place of the message is run, and the message is kept.
    """
    if argument:
        session.answer(session.latest.edit(argument))
        return
    line = session.offer_edit(line_of(session.latest.retry().last_question))
    command = parse_command(line, words=False) if line else None
    if command is not None:
        name, argument = command
        COMMANDS[check_name(name)].run(session, argument)
    elif line and (text := message_of(line)).strip():
        session.answer(session.latest.edit(text))
    else:
        print_message("The message is unchanged.")


def continue_answer(session: Session, argument: str) -> None:
    """Continue an answer that was stopped or cut off."""
    session.continue_answer()


def history(session: Session, argument: str) -> None:
    """Show the conversation, or its last turns."""
    if argument and not (argument.isdecimal() and int(argument)):
        raise CommandError(
            f"/history takes a number of turns, not {argument!r}.",
            "For example /history 3.",
        )
    if session.latest.messages:
        print_turns(session.latest, int(argument) if argument else None)
    else:
        print_message("There are no messages yet.")


def system(session: Session, argument: str) -> None:
    """Show the system prompt, after changing it if there is an argument."""
    if argument:
        session.set_system(None if argument == "-" else argument)
    text = session.conversation.system
    if text is None:
        print_message("There is no system prompt.")
    else:
        print_message(f"System prompt: {shorten(text, 2000)}")


def set_value(session: Session, argument: str) -> None:
    """List the settings, show one, or change one."""
    values = session.settings.as_dict()
    if not argument:
        width = max(map(len, values))
        for name, value in values.items():
            summary = SETTING_TYPES[name].summary
            print_message(f"{name:{width}}  {format_value(value):6}  {summary}")
        return
    # ollama writes /set parameter temperature 1.
    given, text = [*argument.removeprefix("parameter ").split(None, 1), ""][:2]
    if given == "system":
        system(session, text)
        return
    name = setting_name(given)
    if not text:
        summary = SETTING_TYPES[name].summary
        print_message(f"{name} is {format_value(values[name])} ({summary}).")
        return
    session.apply_settings(session.settings.with_value(given, text.strip()))
    new = session.settings.as_dict()[name]
    print_message(f"{name} is now {format_value(new)}.")


def stats(session: Session, argument: str) -> None:
    """Show the statistics of the answers, with tables after -v."""
    if argument not in ("", "-v"):
        raise CommandError(f"/stats takes -v or nothing, not {argument!r}.")
    print_message(session.stats.report(tables=argument == "-v"))


def plain(session: Session, argument: str) -> None:
    """Turn drafting off or on."""
    if argument not in ("", *SWITCH):
        raise CommandError(f"/plain takes on or off, not {argument!r}.")
    on = SWITCH[argument] if argument else not session.settings.plain
    session.set_plain(on)
    engine, reason = session.engine()
    if engine == "dflash":
        print_message("Drafting is on.")
    else:
        print_message(f"Using plain decoding: {reason}.")


def save(session: Session, argument: str) -> None:
    """Write the conversation to a file."""
    path = parse_path(argument, "/save")
    session.save(path)
    print_message(f"Saved to {path}.")


def load(session: Session, argument: str) -> None:
    """Continue a saved conversation."""
    path = parse_path(argument, "/load")
    record = session.load(path)
    print_loaded(session, record, path)


def print_loaded(session: Session, record: Record, path: Path) -> None:
    """Say what was loaded from a file, and show its last turn."""
    n = len(record.conversation.messages)
    print_message(f"Loaded {n} {'message' if n == 1 else 'messages'} from {path}.")
    model = session.request.model
    if record.model != model:
        print_message(f"{record.model} answered them; {model} continues.")
    if n > 2:
        print_message("The last turn, /history shows all:")
    print_turns(record.conversation, 1)


def paste(session: Session, argument: str) -> None:
    """Send several lines as one message, without reading commands in them."""
    if session.reader.terminal:
        print_message(
            "Paste or type the message. Ctrl-D on a line of its own sends it, Ctrl-C "
            "cancels."
        )
    text = session.reader.paste()
    if text is None or not text.strip():
        print_message("Nothing was sent.")
    else:
        session.send(text)


def leave(session: Session, argument: str) -> None:
    """End the chat."""
    raise Quit


def parse_path(argument: str, command: str) -> Path:
    """The file that a command's argument names.

    Raises:
        CommandError: The argument is empty, or names an unknown user's home folder.
    """
    if not argument:
        raise CommandError(f"{command} needs a file.", f"For example {command} a.json.")
    try:
        return Path(argument).expanduser()
    except RuntimeError:
        raise CommandError(f"The home folder in {argument} does not exist.") from None


def shorten(text: str, length: int = 60) -> str:
    """The beginning of a text, in one line of printable characters."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return line if len(line) <= length else line[: length - 3] + "..."


COMMANDS = {
    "help": Command(show_help, "[command]", "list the commands, or describe one"),
    "reset": Command(reset, "", "clear the conversation; keep the system prompt"),
    "retry": Command(
        retry,
        "",
        "answer the last message again",
        "Also answers a message that was refused, or stopped before its answer began.",
    ),
    "continue": Command(
        continue_answer,
        "",
        "continue an answer that was stopped or cut off",
        "As long as nothing was sent or changed since.",
    ),
    "undo": Command(
        undo,
        "",
        "remove the last message and its answer",
        "After /reset, it brings the conversation back.",
    ),
    "edit": Command(
        edit,
        "[text]",
        "change the last message and answer it again",
        "Without text, the last message opens in the line editor; Ctrl-C leaves it.",
    ),
    "history": Command(history, "[turns]", "show the conversation, or its last turns"),
    "system": Command(
        system, "[text]", "show or change the system prompt", "/system - removes it."
    ),
    "set": Command(
        set_value,
        "[name [value]]",
        "list the settings, show one, or change one",
        "For example /set temp 0.7, /set temp, /set thinking off, /set seed none.",
        tuple(SETTING_TYPES),
    ),
    "stats": Command(
        stats,
        "[-v]",
        "show statistics of the last answer and of the session",
        "With -v, also by the position of a draft and by the width of a block.",
        ("-v",),
    ),
    "plain": Command(
        plain,
        "[on|off]",
        "turn plain decoding on or off",
        "The answers stay the same; compare their speed in the status lines.",
        tuple(SWITCH),
    ),
    "save": Command(save, "FILE", "save the conversation to a file", "", None),
    "load": Command(
        load,
        "FILE",
        "continue a saved conversation",
        "Its system prompt and settings are loaded too; the model does not change.",
        None,
    ),
    "paste": Command(
        paste,
        "",
        "send several lines as one message, up to Ctrl-D",
        "For terminals without bracketed paste.",
    ),
    "quit": Command(leave, "", "end the chat"),
}
