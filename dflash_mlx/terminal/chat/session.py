"""`chat`: a conversation that people keep open, its caches kept between turns.

Owns the state of a session and the order of things in a turn. Commands, lines, answers
and words beside them are the business of the modules around it.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from ...cache.prompt_cache import PromptCache
from ...engine import engine_of
from ...errors import CommandError, ConversationError, DFlashError
from ...text.chat_template import apply_template, check_template, marks
from ...text.reasoning import make_splitter
from ..answer_options import Looks, ThinkingOptions
from ..answer_request import AnswerRequest
from ..screen import progress
from ..screen.display import Display
from ..screen.region import answer_console
from ..screen.status import (
    DIM,
    ERROR,
    SessionStats,
    cutoff_notice,
    print_message,
    status_line,
)
from ..thinking import warnings
from . import conversation as files
from . import turn
from .commands import (
    COMMANDS,
    Command,
    Leave,
    line_of,
    message,
    parse,
)
from .completer import Commands
from .conversation import Conversation, Record
from .editor import Reader, open_reader, without_echo
from .history import FileHistory, folder
from .settings import Settings, written

WELCOME = "/help lists the commands; Ctrl-C stops an answer, Ctrl-D leaves."
LEAVING = "Ctrl-D or /quit leaves."
KEPT = "The message is kept: /retry, /edit it, or /reset."


def run(
    ask: AnswerRequest,
    thinking: ThinkingOptions,
    looks: Looks,
    verbose: bool = True,
) -> None:
    """Talk until /quit or the end of input.

    Args:
        ask: The options.
        thinking: Whether the model reasons first.
        looks: How answers are shown, and a saved conversation to go on with.
        verbose: Print a status line after each answer, on stderr.
    """

    def history():
        return FileHistory(folder() / "history.jsonl", print_message)

    if looks.load is not None:
        openable(looks.load)
    chat = Chat(ask, open_reader(history, Commands()), verbose)
    chat.settings = Settings.of(ask, thinking, looks)
    chat.settings.template(chat.tokenizer)  # refuses what the template lacks
    if looks.load is not None:
        chat.load(looks.load, kept=chat.settings.given())
    chat.warn()
    if verbose:
        print_message(WELCOME, DIM)
    chat.talk()


def openable(path: Path) -> None:
    """Raise ConversationError unless --load names a conversation: before a model is
    loaded for it."""
    try:
        files.load(path)
    except ConversationError as error:
        raise ConversationError(error.message, "Name another file.") from None


class Chat:
    """A session.

    Args:
        ask: The options; its model is loaded.
        reader: Where messages come from.
        verbose: Print a status line after each answer.

    Attributes:
        conversation: What was said and answered.
        pending: The conversation with a question that got no answer, if the last one
            got none.
        settings: What /set and /plain have changed.
        tally: Counters of the answers.
    """

    def __init__(self, ask: AnswerRequest, reader: Reader, verbose: bool = True):
        self._template = ask.template_arguments()
        self.ask, self.reader, self.verbose = ask, reader, verbose
        self.pair, self.tokenizer = ask.load()
        check_template(self.tokenizer)
        self.cache = PromptCache(self.pair, ask.max_kv_size)
        self.settings, self.tally = Settings.of(ask), SessionStats()
        self.conversation = Conversation(ask.system_prompt)
        self.pending: Conversation | None = None
        self._offered = ""  # a text that the next prompt begins with

    @property
    def latest(self) -> Conversation:
        """The conversation, its unanswered question included."""
        return self.pending or self.conversation

    def talk(self) -> None:
        """Read and answer until the end."""
        while True:
            try:
                offered, self._offered = self._offered, ""
                said = self.reader.read(offered)
                if said is None:
                    return
                self.hear(said)
            except Leave:
                return
            except KeyboardInterrupt:
                if not self.reader.terminal:
                    raise
                print_message(LEAVING)
            except DFlashError as error:
                print_message(str(error), ERROR)

    def hear(self, said: str) -> None:
        """Follow a command or answer a message."""
        try:
            command = parse(said)
        except CommandError:
            self._offered = said
            raise
        if command is None:
            self.hear_message(message(said))
        else:
            name, argument = command
            self.follow(COMMANDS[name], argument)

    def follow(self, command: Command, argument: str) -> None:
        """Run a command; a bug in it costs no conversation."""
        try:
            command.run(self, argument)
        except (DFlashError, Leave, BrokenPipeError):
            raise
        except Exception:
            traceback.print_exc()
            print_message("That is a bug. The conversation is kept.", ERROR)

    def hear_message(self, text: str) -> None:
        """Answer a message, unless it is empty."""
        if text.strip():
            self.respond(self.conversation.ask(text))

    def respond(self, asked: Conversation) -> None:
        """Answer the open question of `asked`, which is the conversation from then on.

        Without an answer the conversation stays as it was, and /retry asks again.
        """
        self.pending = asked
        try:
            took, display = self._take(asked)
        except BrokenPipeError:
            raise
        except DFlashError as error:
            print_message(f"{error} {KEPT}", ERROR)
            if self._follows(asked):
                self._offered = line_of(asked.question or "")
            return
        except Exception:
            # A bug: what it left in the caches is in doubt, the conversation is not.
            traceback.print_exc()
            self.cache.reset()
            print_message(f"That is a bug. {KEPT}", ERROR)
            return
        if display.answer or display.reasoning or not took.stopped:
            self.conversation = asked.answer(display.answer, display.reasoning)
            self.pending = None
        self._tell(took)

    def display(self, ids: list[int]) -> turn.Display:
        """What shows the answer to a prompt."""
        settings = self.settings
        return Display(
            answer_console(sys.stdout),
            markdown=settings.markdown,
            drafts=settings.drafts,
            reasoning=settings.reasoning,
            splitter=make_splitter(self.tokenizer, ids),
        )

    def edited(self, text: str) -> str | None:
        """`text` as the user changes it; None if given up.

        Raises:
            CommandError: It cannot be offered here.
        """
        if not self.reader.edits:
            raise CommandError("/edit needs the new text here.")
        try:
            return self.reader.read(text)
        except KeyboardInterrupt:
            return None

    def reset(self) -> None:
        """Forget what was said."""
        self.conversation, self.pending = self.conversation.reset(), None
        self.cache.reset()

    def undo(self) -> None:
        """Take the last question back: the unanswered one, or with its answer."""
        if self.pending is None:
            self.conversation = self.conversation.undo()
        self.pending = None

    def set_system(self, text: str | None) -> None:
        """Change the system prompt; None is none."""
        self.conversation = replace(self.conversation, system=text)
        if self.pending is not None:
            self.pending = replace(self.pending, system=text)

    def change(self, settings: Settings) -> None:
        """Answer so from now on.

        Raises:
            OptionError: A value is out of its range.
        """
        settings.apply(self.ask)
        settings.template(self.tokenizer)
        before, self.settings = self.settings, settings
        if (settings.thinking, settings.effort) != (before.thinking, before.effort):
            self.warn()

    def warn(self) -> None:
        """Say it when the drafter was trained for the other kind of answers."""
        thought, ask = self.settings.thought, self.ask
        for warning in warnings(thought, ask, self.pair, self.tokenizer):
            print_message(warning)

    def set_plain(self, on: bool) -> None:
        """Switch drafting off or on."""
        self.change(replace(self.settings, plain=on))

    def engine(self) -> tuple[str, str]:
        """Which engine answers now, and why if it is the plain one."""
        return engine_of(self.pair, not self.settings.plain, self.settings.block_size)

    def save(self, path: Path) -> None:
        """Write the conversation to a file, with a question that waits for its answer;
        as in conversation.save."""
        ask, settings, spoken = self.ask, self.settings.as_dict(), self.conversation
        if self.pending is not None and self._follows(self.pending):
            spoken = self.pending
        files.save(Record(spoken, ask.model, ask.draft, settings), path)

    def _follows(self, asked):
        """Whether it is the conversation with one more question."""
        return asked.messages[:-1] == self.conversation.messages

    def load(self, path: Path, kept: Collection[str] = ()) -> Record:
        """Go on with a file's conversation, system prompt and settings.

        Args:
            path: The file.
            kept: Settings that stay as they are.

        Raises:
            ConversationError: It cannot be read; nothing has changed then.
        """
        record = files.load(path)
        settings = self.settings
        try:
            for name, value in record.settings.items():
                if name not in kept:
                    settings = settings.changed(name, written(value))
            self.change(settings)
        except DFlashError as error:
            raise ConversationError(
                f"{path} has a setting that cannot be used: {error.message}",
                "The present conversation goes on.",
            ) from None
        spoken = record.conversation
        # A question without answer is kept for /retry.
        self.pending = spoken if spoken.open else None
        self.conversation = spoken.undo() if spoken.open else spoken
        return record

    def _take(self, asked):
        """A turn, and the display that showed it."""
        options = self._template | self.settings.template(self.tokenizer)
        messages = asked.for_template()
        ids = apply_template(self.tokenizer, messages, **options)
        parting = marks(self.tokenizer, messages, **options)
        ask, display = self.settings.apply(self.ask), self.display(ids)
        shown = progress.wanted(self.verbose)
        with without_echo(), progress.PrefillBar(shown) as reading:
            took = turn.take(
                ask,
                self.pair,
                self.tokenizer,
                ids,
                self.cache,
                display,
                parting,
                reading,
            )
        if display.answer and not display.console.is_terminal:
            print(flush=True)  # a display gives a pipe the answer and no more
        return took, display

    def _tell(self, took: turn.Turn) -> None:
        """What is to be said below an answer."""
        last = took.last
        if took.stopped:
            early = " before the answer began; /retry asks again"
            print_message(f"(stopped{early if self.pending else ''})", DIM)
        if last is not None:
            self.tally.add(last)
            if self.verbose:
                print_message(status_line(last), DIM)
            if told := cutoff_notice(last, self.pair.target.context):
                print_message(told)
        if took.stopped and not self.reader.terminal:
            raise KeyboardInterrupt
