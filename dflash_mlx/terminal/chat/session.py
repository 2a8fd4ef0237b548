"""A chat session: its models and caches, its conversation and its settings.

Owns the order of steps in a turn. Does not know which commands there are.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from ...cache.prompt_cache import PromptCache
from ...engine import engine_of
from ...errors import CommandError, ConversationError, DFlashError
from ...text.chat_template import apply_template, check_template, marks
from ...text.reasoning import make_splitter
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
from . import turn
from .conversation import Conversation, Record, load_record, save_record
from .editor import Reader, without_echo
from .settings import Settings, format_value

MESSAGE_KEPT = "The message is kept: use /retry, /edit or /reset."
Answered = tuple[turn.Outcome, turn.Display]


class Session:
    """A chat session.

    Args:
        request: The options of the answers; its models are loaded.
        reader: Where messages come from.
        verbose: Print a status line after each answer.

    Attributes:
        conversation: The conversation, each message answered.
        pending: The conversation with a last message that has no answer, or None.
        settings: The current settings.
        stats: The statistics of the answers.
    """

    def __init__(self, request: AnswerRequest, reader: Reader, verbose: bool = True):
        self._template_arguments = request.template_arguments()
        self.request, self.reader, self.verbose = request, reader, verbose
        self.pair, self.tokenizer = request.load()
        check_template(self.tokenizer)
        self.cache = PromptCache(self.pair, request.max_kv_size)
        self.settings, self.stats = Settings.from_options(request), SessionStats()
        self.conversation = Conversation(request.system_prompt)
        self.pending: Conversation | None = None
        self._seed: int | None = None  # of the last answer
        self._cleared: list[Conversation] = []  # what /reset cleared, for /undo
        self._unfinished: Conversation | None = None  # ends in an answer cut short

    @property
    def latest(self) -> Conversation:
        """The conversation, with its unanswered message if there is one."""
        return self.pending or self.conversation

    def send(self, message: str) -> None:
        """Answer a message, unless it is blank."""
        if message.strip():
            self.answer(self.conversation.with_question(message))

    def answer(self, conversation: Conversation) -> None:
        """Answer the last message of a conversation, and continue with it.

        If there is no answer, the session's conversation is unchanged and /retry
        answers again.
        """
        self.pending = conversation
        if (result := self._attempt(self._run_turn, conversation)) is None:
            return
        outcome, display = result
        if display.answer or display.reasoning or not outcome.stopped:
            self._keep(
                conversation.with_answer(display.answer, display.reasoning), outcome
            )
        self._print_ending(outcome)

    def continue_answer(self) -> None:
        """Continue the last answer, which was stopped or cut off.

        Raises:
            CommandError: It was not, or the conversation has changed since.
        """
        before = self.conversation
        if self._unfinished is not before or self.pending is not None:
            raise CommandError(
                "There is no unfinished answer.",
                "/continue works directly after an answer that was stopped or cut off.",
            )
        result = self._attempt(self._run_prompt, list(self.cache.text), (), True)
        if result is not None:
            outcome, display = result
            self._keep(before.with_more(display.answer, display.reasoning), outcome)
            self._print_ending(outcome)

    def _keep(self, conversation: Conversation, outcome: turn.Outcome) -> None:
        """Continue with a conversation that an answer has just ended."""
        self.conversation, self.pending = conversation, None
        self._unfinished = conversation if outcome.cut_short else None

    def _attempt(self, run: Callable, *arguments) -> Answered | None:
        """Run a turn; after an error, print it and return None."""
        try:
            return run(*arguments)
        except BrokenPipeError:
            raise
        except DFlashError as error:
            print_message(f"{error} {MESSAGE_KEPT}", ERROR)
        except Exception:
            # After a bug the caches may be wrong; the conversation is not.
            traceback.print_exc()
            self.cache.reset()
            print_message(f"This is a bug in dflash-mlx. {MESSAGE_KEPT}", ERROR)
        return None

    def _run_turn(self, conversation: Conversation) -> Answered:
        changed = self.settings.template_arguments(self.tokenizer)
        options = self._template_arguments | changed
        messages = conversation.template_messages()
        ids = apply_template(self.tokenizer, messages, **options)
        return self._run_prompt(ids, marks(self.tokenizer, messages, **options))

    def _run_prompt(
        self, ids: list[int], later_marks: Collection[int], continued: bool = False
    ) -> Answered:
        """Answer a prompt.

        Args:
            ids: The prompt.
            later_marks: As in PromptCache.reuse.
            continued: The prompt ends with the beginning of the answer.
        """
        request = self.settings.apply(self.request).with_seed()
        self._seed = request.sampling.seed
        display = self.make_display(ids, continued)
        shown = progress.wanted(self.verbose)
        with without_echo(), progress.PrefillBar(shown) as bar:
            outcome = turn.answer_prompt(
                request,
                self.pair,
                self.tokenizer,
                ids,
                self.cache,
                display,
                later_marks,
                bar,
            )
        if display.answer and not display.console.is_terminal:
            print(flush=True)  # the display writes only the answer to a pipe
        return outcome, display

    def make_display(self, ids: list[int], continued: bool = False) -> turn.Display:
        """The display for the answer to a prompt, or for more of an answer."""
        settings = self.settings
        return Display(
            answer_console(sys.stdout),
            markdown=settings.markdown,
            drafts=settings.drafts,
            reasoning=settings.reasoning,
            splitter=make_splitter(self.tokenizer, ids, continued),
        )

    def _print_ending(self, outcome: turn.Outcome) -> None:
        """Print the lines below an answer; a pipe's Ctrl-C ends the chat."""
        last = outcome.last
        if outcome.stopped:
            early = " before the answer began; /retry tries again"
            print_message(f"(stopped{early if self.pending else ''})", DIM)
        if last is not None:
            self.stats.add(last, self._seed)
            if self.verbose:
                print_message(status_line(last), DIM)
            if notice := cutoff_notice(last, self.pair.target.context):
                print_message(notice)
        if self.reader.terminal and sys.stderr.isatty():
            print_message("")  # between two turns
        if outcome.stopped and not self.reader.terminal:
            raise KeyboardInterrupt

    def offer_edit(self, text: str) -> str | None:
        """Let the user edit a line.

        Returns:
            The edited line; None if cancelled.

        Raises:
            CommandError: The reader cannot offer a text.
        """
        if not self.reader.can_edit:
            raise CommandError(
                "/edit needs the new text, because there is no line editor here.",
                "For example /edit Hello.",
            )
        return self.reader.edit(text)

    def reset(self) -> bool:
        """Clear the conversation and the caches; keep the system prompt.

        Returns:
            Whether there was a conversation, which `undo_reset` can bring back.
        """
        cleared = self.latest
        self.conversation, self.pending = self.conversation.reset(), None
        self.cache.reset()
        if cleared.messages:
            self._cleared.append(cleared)
        return bool(cleared.messages)

    def undo_reset(self) -> bool:
        """Bring the conversation back that was cleared last, if the present one has no
        messages; whether there was one. The system prompt stays as it is now."""
        if self.latest.messages or not self._cleared:
            return False
        self._continue_with(replace(self._cleared.pop(), system=self.latest.system))
        return True

    def _continue_with(self, conversation: Conversation) -> None:
        """Make a conversation, which may end in a message without an answer, the
        session's."""
        pending = conversation.unanswered
        self.pending = conversation if pending else None
        self.conversation = conversation.undo() if pending else conversation

    def undo(self) -> None:
        """Remove the unanswered message, or else the last message and its answer."""
        if self.pending is None:
            self.conversation = self.conversation.undo()
        self.pending = None

    def set_system(self, text: str | None) -> None:
        """Change the system prompt; None removes it."""
        self.conversation = replace(self.conversation, system=text)
        if self.pending is not None:
            self.pending = replace(self.pending, system=text)

    def apply_settings(self, settings: Settings) -> None:
        """Use settings from the next answer on.

        Raises:
            OptionError: A value is out of its range.
        """
        settings.apply(self.request)
        settings.template_arguments(self.tokenizer)
        before, self.settings = self.settings, settings
        if settings.make_thinking() != before.make_thinking():
            self.print_warnings()

    def print_warnings(self) -> None:
        """Print a warning if the drafter was trained on the other kind of answers."""
        thinking = self.settings.make_thinking()
        for warning in warnings(thinking, self.request, self.pair, self.tokenizer):
            print_message(warning)

    def set_plain(self, on: bool) -> None:
        """Turn drafting off or on."""
        self.apply_settings(replace(self.settings, plain=on))

    def engine(self) -> tuple[str, str]:
        """The engine of the next answer, and the reason if it is plain."""
        return engine_of(self.pair, not self.settings.plain, self.settings.block_size)

    def save(self, path: Path) -> None:
        """Write the conversation to a file, with its unanswered message if that is new.

        Raises:
            ConversationError: As in save_record.
        """
        conversation = self.conversation
        if self.pending is not None and self._is_next(self.pending):
            conversation = self.pending
        settings, request = self.settings.as_dict(), self.request
        record = Record(conversation, request.model, request.draft, settings)
        save_record(record, path)

    def _is_next(self, conversation: Conversation) -> bool:
        """Whether it is the session's conversation with one more message."""
        return conversation.messages[:-1] == self.conversation.messages

    def load(self, path: Path, kept: Collection[str] = ()) -> Record:
        """Continue with the conversation, system prompt and settings of a file.

        Args:
            path: The file.
            kept: The names of settings that do not change.

        Raises:
            ConversationError: The file cannot be used, and nothing was changed.
        """
        record = load_record(path)
        settings = self.settings
        try:
            for name, value in record.settings.items():
                if name not in kept:
                    settings = settings.with_value(name, format_value(value))
            self.apply_settings(settings)
        except DFlashError as error:
            raise ConversationError(
                f"{path} has a setting that cannot be used: {error.message}",
                "The current conversation is unchanged.",
            ) from None
        self._continue_with(record.conversation)
        return record
