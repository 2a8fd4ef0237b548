"""The errors that a user can cause, each one sentence and a next step.

Everything raised from here is a mistake in what was asked, not a bug: the
command line prints it without a traceback. Bugs stay ordinary exceptions.
"""

from __future__ import annotations


class DFlashError(Exception):
    """Base of all user errors.

    Args:
        message: What is wrong, in one sentence.
        hint: What to do next, or an empty string.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = ""):
        super().__init__(f"{message} {hint}".strip())
        self.message = message
        self.hint = hint


class OptionError(DFlashError):
    """An option is out of range or does not go with another one."""

    exit_code = 2


class PromptError(DFlashError):
    """The prompt is empty or does not fit the model's context."""

    exit_code = 2


class CacheFileError(DFlashError):
    """A prompt cache's file is missing, broken, or another model's."""


class BrokenFileError(CacheFileError):
    """A prompt cache's file is damaged; whatever was in it, nobody can use it."""


class UnknownModelError(DFlashError):
    """A name is no alias, no folder and no Hub id."""

    exit_code = 2


class MissingFilesError(DFlashError):
    """A folder or repository is missing, partial, gated or out of reach."""


class ConfigError(DFlashError):
    """A config.json lacks a field, or says what this version cannot run."""


class WeightsError(DFlashError):
    """Tensors are missing, truncated, left over or of the wrong shape."""


class PairError(DFlashError):
    """A drafter and a target do not fit each other."""


class UnsupportedError(DFlashError):
    """The model works with plain decoding only, and drafting was required."""


class NotEnoughMemoryError(DFlashError):
    """The model is larger than what this machine can hold."""


class NotEnoughDiskError(DFlashError):
    """A download is larger than what the disk has left."""


class DataError(DFlashError):
    """A training file has a line that cannot be used."""


class ServerError(DFlashError):
    """A server cannot be reached, refuses, or does not speak OpenAI's API."""


class CommandError(DFlashError):
    """A command of the chat is unknown, or there is nothing it could work on."""

    exit_code = 2


class ConversationError(DFlashError):
    """A conversation's file cannot be read or written, or is none."""


class MissingPackageError(DFlashError):
    """An optional package is not installed."""
