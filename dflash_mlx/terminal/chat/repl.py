"""The read loop of `chat`: each line is a command or a message.

Owns how a session starts and ends. Does not know how an answer is made.
"""

from __future__ import annotations

import traceback
from pathlib import Path

from ...errors import CommandError, ConversationError, DFlashError
from ..answer_options import Looks, ThinkingOptions
from ..answer_request import AnswerRequest
from ..screen.status import DIM, ERROR, print_message
from .commands import COMMANDS, Command, Quit, check_name
from .completer import CommandCompleter
from .conversation import load_record
from .editor import open_reader
from .history import FileHistory, data_folder
from .lines import message_of, parse_command
from .session import Session
from .settings import Settings

WELCOME = "/help lists the commands. Ctrl-C stops an answer, Ctrl-D quits."
HOW_TO_QUIT = "Press Ctrl-D or type /quit to quit."


def run(
    request: AnswerRequest,
    thinking: ThinkingOptions,
    looks: Looks,
    verbose: bool = True,
) -> None:
    """Chat until /quit or the end of the input.

    Args:
        request: The options of the answers.
        thinking: Whether the model reasons first.
        looks: How answers are displayed, and a conversation to continue.
        verbose: Print a status line after each answer, on stderr.
    """
    if looks.load is not None:
        check_conversation_file(looks.load)
    completer = CommandCompleter({name: each.words for name, each in COMMANDS.items()})
    session = Session(request, open_reader(open_history, completer), verbose)
    session.settings = Settings.from_options(request, thinking, looks)
    session.settings.template_arguments(session.tokenizer)  # raises if not supported
    if looks.load is not None:
        session.load(looks.load, kept=session.settings.non_defaults())
    session.print_warnings()
    if verbose:
        print_message(WELCOME, DIM)
    read_lines(session)


def open_history() -> FileHistory:
    """The history of typed lines."""
    return FileHistory(data_folder() / "history.jsonl", print_message)


def check_conversation_file(path: Path) -> None:
    """Raise ConversationError if --load cannot be read, before a model is loaded."""
    try:
        load_record(path)
    except ConversationError as error:
        raise ConversationError(error.message, "Choose another file.") from None


def read_lines(session: Session) -> None:
    """Read and handle lines until /quit or the end of the input."""
    while True:
        try:
            offered, session.offered_line = session.offered_line, ""
            line = session.reader.read(offered)
            if line is None:
                return
            handle_line(session, line)
        except Quit:
            return
        except KeyboardInterrupt:
            if not session.reader.terminal:
                raise
            print_message(HOW_TO_QUIT)
        except DFlashError as error:
            print_message(str(error), ERROR)


def handle_line(session: Session, line: str) -> None:
    """Run a command or answer a message.

    Raises:
        DFlashError: The command does not exist, or cannot do what it should.
        Quit: The command is /quit.
    """
    parsed = parse_command(line)
    if parsed is None:
        session.send(message_of(line))
        return
    name, argument = parsed
    try:
        check_name(name)
    except CommandError:
        session.offered_line = line
        raise
    run_command(session, COMMANDS[name], argument)


def run_command(session: Session, command: Command, argument: str) -> None:
    """Run a command; after a bug in it, the session continues."""
    try:
        command.run(session, argument)
    except (DFlashError, Quit, BrokenPipeError):
        raise
    except Exception:
        traceback.print_exc()
        print_message("This is a bug in dflash-mlx. The conversation is kept.", ERROR)
