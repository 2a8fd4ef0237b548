"""What a client did wrong, or why it gets no answer: one record for all dialects.

Owns the status and the words. How each API writes an error is in its dialect.
"""

from __future__ import annotations

from ..errors import DFlashError

# Most characters of a message, a warning and a field's name. They repeat values of a
# request, which may be megabytes.
MOST_MESSAGE, MOST_NAME = 1000, 200
INTERNAL = "The server failed to answer; its log says why."


class RequestError(Exception):
    """A request that is refused or fails.

    Args:
        message: What is wrong, in one sentence or two. Long ones are cut.
        status: The HTTP status.
        code: A short word for programs, such as "model_not_found".
        param: The field at fault.
        retry_after: Seconds after which the client may try again.
    """

    def __init__(
        self,
        message: str,
        status: int = 400,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
    ):
        self.message, self.status = one_line(message), status
        super().__init__(self.message)
        self.code, self.retry_after = code, retry_after
        self.param = None if param is None else one_line(param, MOST_NAME)


class PromptTooLong(RequestError):
    """The prompt does not fit the context.

    Args:
        tokens: Its length.
        limit: The context, or what the server allows of it.
    """

    def __init__(self, tokens: int, limit: int):
        super().__init__(
            f"The prompt has {tokens} tokens, but the context ends at {limit}. "
            "Shorten the conversation.",
            code="context_length_exceeded",
            param="messages",
        )
        self.tokens, self.limit = tokens, limit


def one_line(text: str, most: int = MOST_MESSAGE) -> str:
    """The text for a message or a header: one line of printable characters.

    Args:
        text: It may hold values from a request.
        most: Its most characters; the middle of a longer text is left out.
    """
    if len(text) > most:
        text = f"{text[: most // 2]} ... {text[-(most // 3) :]}"
    return printable(" ".join(text.split()))


def printable(text: str) -> str:
    """The text with escapes for characters that could forge lines of a log."""
    if text.isprintable():
        return text
    escape = "unicode_escape"
    return "".join(c if c.isprintable() else c.encode(escape).decode() for c in text)


def from_user_error(error: DFlashError, param: str | None = None) -> RequestError:
    """The RequestError for a mistake that the package found in a request."""
    return RequestError(str(error), param=param)


def unsupported(what: str, param: str, instead: str = "Leave it out.") -> RequestError:
    """The error for a field that would be answered wrongly.

    Args:
        what: What is not supported, to begin the sentence.
        param: The field.
        instead: What to do.
    """
    return RequestError(
        f"{what} is not supported. {instead}", code="unsupported_value", param=param
    )
