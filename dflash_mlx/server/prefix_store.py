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
    """The last conversations of one pair, and the last short one beside them, such as a
    chat window's request for a title.

    Args:
        pair: The models.
        max_kv_size: As in PromptCache.
        most: Most conversations.
    """

    def __init__(self, pair: Pair, max_kv_size: int | None = None, most: int = 2):
        self.pair, self.max_kv_size, self.most = pair, max_kv_size, most
        self.reset()

    def cache_for(self, prompt: Sequence[int]) -> PromptCache:
        """The cache to answer a prompt with. No answer under way uses it.

        Args:
            prompt: All tokens of the prompt.
        """
        free = [cache for cache in self.kept if cache.owner is None]
        free.sort(key=lambda cache: -len(cache.text))
        for cache in free:
            shared = common_prefix(cache.text, prompt)
            if shared > SMALL * min(len(cache.text), len(prompt)):
                return cache
        if len(free) < 2:
            return self._add(free)
        return free[-1] if len(prompt) < SMALL * len(free[0].text) else free[0]

    def _add(self, free):
        """A new cache; the shortest of the free ones is dropped if there are more than
        may be kept."""
        self.kept.append(PromptCache(self.pair, self.max_kv_size))
        if len(self.kept) > self.most and free:
            self.kept.remove(free[-1])
        return self.kept[-1]

    @property
    def tokens(self) -> int:
        """Tokens of the longest of the kept conversations."""
        return max(len(cache.text) for cache in self.kept)

    def reset(self) -> None:
        """Drop everything, as after a bug that may have left it wrong."""
        self.kept = [PromptCache(self.pair, self.max_kv_size) for _ in range(2)]
