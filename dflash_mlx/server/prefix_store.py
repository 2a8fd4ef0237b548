"""The caches of earlier prompts, from which a new prompt continues.

Keeps the last conversation and a short one. Does not know requests or models' files.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..cache.prompt_cache import PromptCache, common_prefix
from ..pair import Pair

# Share of a text: a prompt that has less than this in common with the kept
# conversations, and is shorter than that share of the longer one, does not replace it.
SMALL = 0.5


class PrefixStore:
    """The last conversation of one pair, and the last short one beside it, such as a
    chat window's request for a title.

    Args:
        pair: The models.
        max_kv_size: As in PromptCache.
    """

    def __init__(self, pair: Pair, max_kv_size: int | None = None):
        self.pair, self.max_kv_size = pair, max_kv_size
        self.reset()

    def cache_for(self, prompt: Sequence[int]) -> PromptCache:
        """The cache to answer a prompt with.

        Args:
            prompt: All tokens of the prompt.
        """
        short, long = sorted(self.kept, key=lambda cache: len(cache.text))
        for cache in (long, short):
            shared = common_prefix(cache.text, prompt)
            if shared > SMALL * min(len(cache.text), len(prompt)):
                return cache
        return short if len(prompt) < SMALL * len(long.text) else long

    @property
    def tokens(self) -> int:
        """Tokens of the longer of the kept conversations."""
        return max(len(cache.text) for cache in self.kept)

    def reset(self) -> None:
        """Drop everything, as after a bug that may have left it wrong."""
        new = PromptCache(self.pair, self.max_kv_size)
        self.kept = [new, PromptCache(self.pair, self.max_kv_size)]
