"""The options of `serve`: where it listens, who may use it, what it allows.

A field is a command-line option, and its default the command's. Imports nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ...errors import OptionError
from ...types import require
from .. import shell_completion
from ..answer_options import AnswerOptions
from ..options import MaxTokens, check_choice, option

SERVER = "Server"
LOG_LEVELS = ("debug", "info", "warning", "error")
# Hosts that only this machine can reach.
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class ServedAnswerOptions(AnswerOptions):
    """The defaults of a server's answers, whose length has no limit of its own."""

    max_tokens: MaxTokens = -1


@dataclass(frozen=True)
class ServeOptions:
    """Where the server listens, and what it allows."""

    alias: Annotated[
        list[str] | None,
        option(
            "--alias",
            "Serve MODEL as NAME too; NAME may have * for any text, for example "
            "'claude-*=qwen3-8b'. Repeat the option for several.",
            SERVER,
            metavar="NAME=MODEL",
        ),
    ] = None
    host: Annotated[
        str,
        option("--host", "Address to listen on; others need --api-key.", SERVER),
    ] = "127.0.0.1"
    port: Annotated[
        int, option("--port", "Port to listen on; 0 chooses a free one.", SERVER)
    ] = 8080
    api_key: Annotated[
        str | None,
        option(
            "--api-key",
            "Key that requests must carry, as Authorization: Bearer KEY or x-api-key.",
            SERVER,
            metavar="KEY",
        ),
    ] = None
    allowed_host: Annotated[
        list[str] | None,
        option(
            "--allowed-host",
            "Another name that requests may use for this server; repeat the option "
            "for several.",
            SERVER,
            metavar="NAME",
        ),
    ] = None
    allowed_origin: Annotated[
        list[str] | None,
        option(
            "--allowed-origin",
            "Web origin whose pages may use the API, for example http://localhost:3000,"
            " or * for all; repeat the option for several. Default: none.",
            SERVER,
            metavar="ORIGIN",
        ),
    ] = None
    max_concurrent: Annotated[
        int,
        option(
            "--max-concurrent",
            "Maximum number of requests that are answered at once, in shared passes.",
            SERVER,
        ),
    ] = 4
    max_queue: Annotated[
        int, option("--max-queue", "Maximum number of waiting requests.", SERVER)
    ] = 64
    timeout: Annotated[
        float,
        option(
            "--timeout",
            "Maximum number of seconds for an answer, waiting included; 0 is no limit.",
            SERVER,
        ),
    ] = 600.0
    max_tokens_cap: Annotated[
        int | None,
        option(
            "--max-tokens-cap",
            "Maximum number of tokens of an answer, whatever a request asks for. "
            "Default: no limit but the context.",
            SERVER,
        ),
    ] = None
    context: Annotated[
        int | None,
        option(
            "--context",
            "Maximum number of tokens of a prompt and its answer. Default: the "
            "model's.",
            SERVER,
        ),
    ] = None
    log_level: Annotated[
        str,
        option(
            "--log-level",
            "What is logged: debug, with prompts and answers; info, a line per "
            "request; warning; error.",
            SERVER,
            metavar="LEVEL",
            autocompletion=shell_completion.words(*LOG_LEVELS),
        ),
    ] = "info"

    def __post_init__(self):
        require(0 <= self.port < 2**16, "--port", "0 to 65535", self.port)
        most = self.max_concurrent
        require(most >= 1, "--max-concurrent", "1 or more", most)
        require(self.max_queue >= 1, "--max-queue", "1 or more", self.max_queue)
        require(self.timeout >= 0, "--timeout", "0 or more", self.timeout)
        for name in ("max_tokens_cap", "context"):
            value = getattr(self, name)
            words = f"--{name.replace('_', '-')}"
            require(value is None or value >= 1, words, "1 or more", value)
        check_choice(self.log_level, "--log-level", *LOG_LEVELS)
        if self.host not in LOOPBACK and self.api_key is None:
            raise OptionError(
                f"--host {self.host} can be reached by others, so it needs --api-key.",
                "Add --api-key KEY, or leave --host out.",
            )
        require(self.api_key != "", "--api-key", "at least one character", "")

    def aliases(self) -> dict[str, str]:
        """The aliases: NAME -> MODEL.

        Raises:
            OptionError: One is not NAME=MODEL.
        """
        found = {}
        for text in self.alias or ():
            name, _, model = text.partition("=")
            if not name or not model:
                raise OptionError(f"--alias must be NAME=MODEL, but is {text!r}.")
            found[name] = model
        return found
