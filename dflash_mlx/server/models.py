"""The models that are served, and the one that is loaded.

Owns names and aliases, and what belongs to a loaded model. Does not know requests.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

import mlx.core as mx
from mlx_lm.tokenizer_utils import TokenizerWrapper

from ..pair import Pair
from .errors import MOST_NAME, RequestError
from .prefix_store import PrefixStore
from .reasoning_store import ReasoningStore


@dataclass
class Loaded:
    """A loaded model.

    Args:
        name: The name that it is served under.
        pair, tokenizer: The models, and the target's tokenizer.
        drafter: Name of the drafter, or None.
        prefixes: Caches of earlier prompts.
        reasonings: The reasoning behind recent answers.
    """

    name: str
    pair: Pair
    tokenizer: TokenizerWrapper
    drafter: str | None
    prefixes: PrefixStore
    reasonings: ReasoningStore = field(default_factory=ReasoningStore)


# Loads a served model by its name: pair, tokenizer, and the drafter's name or None.
Load = Callable[[str], tuple[Pair, TokenizerWrapper, str | None]]


@dataclass
class Models:
    """The served models. Only the model's thread calls `get`.

    Args:
        names: The names that are served; the first is the default.
        aliases: Further names, which may have * and ?, and what they stand for.
        load: Loads a model.
        max_kv_size: As in PromptCache.
        conversations: Most conversations whose caches are kept.

    Attributes:
        loaded: The model in memory, or None.
        loading: The name of the model that is being loaded, or None.
        created: When the server was started, in seconds since 1970.
    """

    names: Sequence[str]
    load: Load
    aliases: Mapping[str, str] = field(default_factory=dict)
    max_kv_size: int | None = None
    conversations: int = 2
    loaded: Loaded | None = None
    loading: str | None = None
    created: int = field(default_factory=lambda: int(time.time()))

    def find(self, name: str | None) -> str:
        """The served name that a request's name stands for.

        Raises:
            RequestError: It stands for none.
        """
        if name is None or name == "default":
            return self.names[0]
        if name in self.names:
            return name
        for pattern, served in self.aliases.items():
            if len(name) <= MOST_NAME and fnmatchcase(name, pattern):
                return served
        served = ", ".join([*self.names, *self.aliases])
        raise RequestError(
            f"The model {name!r} is not served here. Served: {served}.",
            status=404,
            code="model_not_found",
            param="model",
        )

    def listed(self) -> list[str]:
        """All names that are not patterns."""
        plain = [name for name in self.aliases if not set(name) & set("*?[")]
        return [*self.names, *plain]

    def get(self, name: str) -> Loaded:
        """The loaded model of a served name; another one is dropped first.

        Raises:
            DFlashError: It cannot be loaded.
        """
        if self.loaded is None or self.loaded.name != name:
            self.loaded, self.loading = None, name
            mx.clear_cache()
            try:
                pair, tokenizer, drafter = self.load(name)
                prefixes = PrefixStore(pair, self.max_kv_size, self.conversations)
                self.loaded = Loaded(name, pair, tokenizer, drafter, prefixes)
            finally:
                self.loading = None
        return self.loaded

    def context(self) -> int | None:
        """The loaded model's context in tokens, or None."""
        return self.loaded.pair.target.context if self.loaded else None

    def records(self) -> list[dict[str, Any]]:
        """The models as OpenAI's and Anthropic's APIs list them."""
        return [self.record(name) for name in self.listed()]

    def list_body(self) -> dict[str, Any]:
        """The one page of models, with the fields of both APIs."""
        data = self.records()
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]}
        return {"object": "list", "data": data, "has_more": False, **ends}

    def record(self, name: str) -> dict[str, Any]:
        """The entry of one name."""
        served, loaded = self.find(name), self.loaded
        here = loaded is not None and loaded.name == served
        context = loaded.pair.target.context if here else None
        started = datetime.fromtimestamp(self.created, UTC)
        return {
            "id": name,
            "object": "model",
            "created": self.created,
            "owned_by": "dflash-mlx",
            "max_model_len": context,
            "loaded": here,
            "type": "model",  # from here on Anthropic's fields
            "display_name": name,
            "created_at": started.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "lifecycle": "active",
            "max_input_tokens": context,
        }
