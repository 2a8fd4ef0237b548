"""The errors that a user can cause, each with one sentence and a next step.

The command line prints them without a traceback. Bugs are ordinary exceptions.
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
    """An option is out of range or cannot be combined with another one."""

    exit_code = 2


class PromptError(DFlashError):
    """The prompt is empty or does not fit the model's context."""

    exit_code = 2


class CacheFileError(DFlashError):
    """A prompt cache file is missing, damaged, or was written for another model."""


class BrokenFileError(CacheFileError):
    """A prompt cache file is damaged, so that no model can use it."""


class UnknownModelError(DFlashError):
    """A name is neither an alias, nor a folder, nor a Hub id."""

    exit_code = 2


class MissingFilesError(DFlashError):
    """A folder or repository is missing, incomplete, gated or unreachable."""


class ConfigError(DFlashError):
    """A config.json lacks a field or has a value that is not supported."""


class WeightsError(DFlashError):
    """Tensors are missing, truncated, unknown or of the wrong shape."""


class PairError(DFlashError):
    """A drafter and a target do not fit each other."""


class UnsupportedError(DFlashError):
    """Drafting is required, but the model supports plain decoding only."""


class NotEnoughMemoryError(DFlashError):
    """The model does not fit into this machine's memory."""


class NotEnoughDiskError(DFlashError):
    """A download does not fit onto the disk."""


class DataError(DFlashError):
    """A training file has a line that cannot be used."""


class ServerError(DFlashError):
    """A server is unreachable, refuses a request, or does not have OpenAI's API."""


class CommandError(DFlashError):
    """A chat command is unknown, or there is nothing for it to work on."""

    exit_code = 2


class ConversationError(DFlashError):
    """A conversation file cannot be read or written, or is not one."""


class MissingPackageError(DFlashError):
    """An optional package is not installed."""


class GrammarError(DFlashError):
    """A grammar or schema cannot be used, or an answer cannot follow it."""

    exit_code = 2
