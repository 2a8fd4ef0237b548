"""What the server was started with: the defaults and the limits of requests.

Does not know how an option is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..types import Sampling


@dataclass(frozen=True)
class Defaults:
    """What a request does not say.

    Args:
        sampling: How tokens are chosen.
        max_tokens: Most tokens of an answer; -1 for as many as the context allows.
        stop: Strings that end every answer.
        system: System message of conversations that have none, or None.
        thinking: Whether to reason first; None for the template's default.
        effort: How hard to reason; None for the template's default.
        template_arguments: More variables for the chat template.
    """

    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int = -1
    stop: tuple[str, ...] = ()
    system: str | None = None
    thinking: bool | None = None
    effort: str | None = None
    template_arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Decoding:
    """How answers are decoded; see engine.stream_generate."""

    block_size: int | None = None
    speculate: bool = True
    prefill_step_size: int = 2048
    max_kv_size: int | None = None
    kv_bits: int | None = None
    kv_group_size: int = 64
    quantized_kv_start: int = 5000


@dataclass(frozen=True)
class Limits:
    """What a request may ask for.

    Args:
        max_tokens: Most tokens of an answer; None for no limit but the context's.
        context: Most tokens of prompt and answer; None for the model's context.
        max_queue: Most requests that wait.
        max_concurrent: Most requests that are answered at once.
        timeout: Most seconds for an answer, the wait included; None for no limit.
        body_bytes: Most bytes of a request's body.
    """

    max_tokens: int | None = None
    context: int | None = None
    max_queue: int = 64
    max_concurrent: int = 1
    timeout: float | None = 600.0
    body_bytes: int = 32 << 20


@dataclass(frozen=True)
class Access:
    """Who may use the server.

    Args:
        host, port: Where it listens.
        api_key: What requests must carry, or None.
        hosts: Further names that the Host header may have.
        origins: Web origins that may use the API; "*" for all.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    api_key: str | None = None
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings:
    """All settings of a server."""

    defaults: Defaults = field(default_factory=Defaults)
    decoding: Decoding = field(default_factory=Decoding)
    limits: Limits = field(default_factory=Limits)
    access: Access = field(default_factory=Access)
