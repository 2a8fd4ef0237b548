"""The read loop of `chat`: each line is a command or a message.

Owns how a session starts and ends. Does not know how an answer is made.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

from ...errors import ConversationError, DFlashError
from ...hub.registry import EMBEDDED, TINY
from ..answer_options import ThinkingOptions
from ..answer_request import AnswerRequest
from ..screen.status import ERROR, print_message
from ..thinking import drafter_name
from .commands import COMMANDS, Command, Quit, check_name, print_loaded
from .completer import CommandCompleter
from .conversation import load_record
from .editor import open_reader
from .history import FileHistory, data_folder
from .lines import message_of, parse_command
from .looks import Looks
from .session import Session
from .settings import Settings

HELP = "/help for help"
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
    record = None
    if looks.load is not None:
        record = session.load(looks.load, kept=session.settings.non_defaults())
    session.print_warnings()
    if verbose:
        print_header(title(session))
        if record is not None:
            print_loaded(session, record, looks.load)
    read_lines(session)


def title(session: Session) -> str:
    """The model that answers and its drafter, in a few words."""
    model = Path(session.request.model).name or session.request.model
    if session.request.model.lower() == TINY:
        model = f"{TINY} (a toy for arithmetic)"
    engine, _ = session.engine()
    repository = drafter_name(session.request, session.pair)
    if engine == "plain" or repository is None:
        return f"{model}, plain decoding"
    owner, slash, name = repository.rpartition("/")
    if repository in EMBEDDED:
        return f"{model} + its drafter"
    if slash and owner.count("/") == 0 and not Path(repository).is_dir():
        return f"{model} + {owner} drafter"
    return f"{model} + drafter {name}"


def print_header(text: str) -> None:
    """Print the first line of a chat, and on a terminal a blank row after it."""
    print_message(f"{text}, {HELP}", "bold")
    if sys.stderr.isatty():
        print_message("")


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
            line = session.reader.read()
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
    run_command(session, COMMANDS[check_name(name)], argument)


def run_command(session: Session, command: Command, argument: str) -> None:
    """Run a command; after a bug in it, the session continues."""
    try:
        command.run(session, argument)
    except (DFlashError, Quit, BrokenPipeError):
        raise
    except Exception:
        traceback.print_exc()
        print_message("This is a bug in dflash-mlx. The conversation is kept.", ERROR)
