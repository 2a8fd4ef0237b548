"""Chooses tokens from logits: filters, penalties and sampling.

Owns filters and noise. Does not know models, drafters or the loop. Noise is a function
of (seed, position), so a choice does not depend on the number of rows in a pass:
sampled output is the same for every drafter and width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx
from mlx_lm.sample_utils import (
    apply_min_p,
    apply_top_k,
    apply_top_p,
    apply_xtc,
    make_logits_processors,
)

from ..errors import OptionError
from ..models.drafters.base import Choose
from ..types import Sampling

LogitsProcessor = Callable[[mx.array, mx.array], mx.array]
Sampler = Callable[[mx.array], mx.array]


def log_probabilities(logits: mx.array) -> mx.array:
    """Normalize rows of logits [n, V] in their own dtype, as mlx-lm does.

    In half precision the subtraction rounds and can turn two close logits into a tie.
    So greedy choices equal mlx-lm's only if they are made after it.
    """
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


def mask_logits(logits: mx.array, masks: mx.array | None) -> mx.array:
    """Rows of logits [n, V] with -inf for all tokens that are not legal.

    Args:
        logits: Processed logits.
        masks: [n, words] bits of the legal tokens, uint32, the lowest bit first; None
            if all are.
    """
    if masks is None:
        return logits
    bits = (masks[:, :, None] >> mx.arange(32, dtype=mx.uint32)) & 1
    legal = bits.reshape(len(masks), -1)[:, : logits.shape[-1]] != 0
    return mx.where(legal, logits, mx.array(-mx.inf, logits.dtype))


class Chooser:
    """Chooses tokens; a row's choice does not depend on the other rows of its pass.

    Args:
        sampling: Temperature, filters, penalties, seed.
        logits_processors: Further processors in mlx-lm's form,
            f(tokens [m], logits [1, V]) -> logits [1, V]. They get each row of a block
            with its own prefix, drafts included, so their result must depend on the two
            arguments only.
        sampler: Replaces the sampling of `sampling`, in mlx-lm's form,
            f(log-probabilities [1, V]) -> [1]. MLX's generator, if it uses that, is
            seeded by (seed, position).
    """

    def __init__(
        self,
        sampling: Sampling,
        logits_processors: Sequence[LogitsProcessor] | None = None,
        sampler: Sampler | None = None,
    ):
        self.sampling = sampling
        self.vocab_size = 0  # of the target's logits; set by `process`
        self.sampler = sampler
        self._own_processors = make_logits_processors(
            logit_bias=sampling.logit_bias or None,
            repetition_penalty=sampling.repetition_penalty,
            repetition_context_size=sampling.repetition_context_size,
            presence_penalty=sampling.presence_penalty,
            presence_context_size=sampling.presence_context_size,
            frequency_penalty=sampling.frequency_penalty,
            frequency_context_size=sampling.frequency_context_size,
        )
        self._processors = self._own_processors + list(logits_processors or [])
        self.seed = sampling.seed
        if self.seed is None and (sampling.temp > 0 or sampler is not None):
            self.seed = mx.random.randint(0, 2**31 - 1).item()

    @property
    def needs_tokens(self) -> bool:
        """Whether `process` and `process_draft` need the tokens before each row."""
        return bool(self._processors)

    def process(self, logits: mx.array, tokens: mx.array | None) -> mx.array:
        """Apply every processor to each row, with the tokens before its choice.

        Args:
            logits: [n, V] of n consecutive rows.
            tokens: [m + n]; the last n are the inputs of the rows.

        Raises:
            OptionError: logit_bias has an id outside the vocabulary.
        """
        self.vocab_size = logits.shape[-1]
        if not self._processors:
            return logits
        beyond = [i for i in self.sampling.logit_bias if i >= self.vocab_size]
        if beyond:
            raise OptionError(
                f"logit_bias names token {beyond[0]}, but the vocabulary has "
                f"{self.vocab_size}."
            )
        before = tokens.shape[0] - logits.shape[0]
        rows = []
        for i in range(logits.shape[0]):
            row = logits[i : i + 1]
            for processor in self._processors:
                row = processor(tokens[: before + i + 1], row)
            rows.append(row)
        return mx.concatenate(rows)

    def process_draft(
        self, logits: mx.array, tokens: mx.array | None, ids: mx.array | None = None
    ) -> mx.array:
        """Apply the penalties and bias of `sampling` to draft rows.

        This is an approximation: all rows get the same prefix, since the tokens between
        it and a row are not known yet.

        Args:
            logits: [n, V], or [n, k] over the candidates `ids`.
            tokens: [m] the prefix.
            ids: [n, k] candidate token ids, or None for the whole vocabulary.
        """
        if not self._own_processors:
            return logits
        rows = logits
        if ids is not None:
            rows = mx.full((len(ids), self.vocab_size), -mx.inf, logits.dtype)
            rows = mx.put_along_axis(rows, ids, logits, axis=-1)
        for processor in self._own_processors:
            rows = processor(tokens, rows)
        return rows if ids is None else mx.take_along_axis(rows, ids, axis=-1)

    def for_drafts(self, history: mx.array | None, rows: int) -> Choose:
        """The function with which a drafter asks for tokens.

        Args:
            history: [m] the text up to the anchor, if `needs_tokens`.
            rows: Rows before the block.
        """

        def choose(logits, slots, ids=None):
            candidates = None if ids is None else ids[0]
            processed = self.process_draft(logits[0], history, candidates)
            positions = [rows + slot for slot in slots]
            return self.choose(processed, positions, candidates, draft=True)[None]

        return choose

    def choose(
        self,
        logits: mx.array,
        positions: Sequence[int],
        ids: mx.array | None = None,
        draft: bool = False,
    ) -> mx.array:
        """Choose one token per row.

        Args:
            logits: [n, V] processed logits, or [n, k] over the candidates `ids`.
            positions: The position in the text of each row's token.
            ids: [n, k] candidate token ids, or None for the whole vocabulary.
            draft: Skip the normalization where the choice is greedy; a near tie may
                then be decided differently.

        Returns:
            [n] token ids, uint32.
        """
        if draft and self.sampler is None and self.sampling.temp == 0:
            logprobs = logits
        else:
            logprobs = log_probabilities(logits)
        if self.sampler is not None and ids is None:
            return self._choose_by_sampler(logprobs, positions)
        if self.sampling.temp > 0:
            logprobs = self._perturb(logprobs.astype(mx.float32), positions, ids)
        best = mx.argmax(logprobs, axis=-1)
        if ids is None:
            return best
        return mx.take_along_axis(ids, best[:, None], axis=-1)[:, 0].astype(mx.uint32)

    def _choose_by_sampler(self, logprobs, positions):
        high, low = mx.random.state[0].tolist()
        chosen = []
        for i, position in enumerate(positions):
            mx.random.seed((self.seed << 32) | position)
            chosen.append(self.sampler(logprobs[i : i + 1]).reshape(1))
        mx.random.seed((high << 32) | low)  # restore the caller's generator
        return mx.concatenate(chosen).astype(mx.uint32)

    def _perturb(self, logprobs, positions, ids):
        """Filtered log-probabilities / temp + Gumbel noise of each position."""
        noise_keys, coin_keys = self._keys(positions)
        size = logprobs.shape[-1] if ids is None else self.vocab_size
        noise = mx.vmap(lambda k: mx.random.gumbel((size,), key=k))(noise_keys)
        if ids is not None:
            noise = mx.take_along_axis(noise, ids, axis=-1)
        filtered = self._filter(logprobs, coin_keys, ids is None)
        return filtered * (1 / self.sampling.temp) + noise

    def _keys(self, positions):
        """Two random keys [n, 2] per position: for the noise and for XTC's coin."""
        keys = mx.array([[self.seed, p] for p in positions], dtype=mx.uint32)
        pairs = mx.vmap(mx.random.split)(keys)
        return pairs[:, 0], pairs[:, 1]

    def _filter(self, logprobs, coin_keys, whole):
        """Apply mlx-lm's filters to log-probabilities [n, k], in its order.

        Over candidates (not `whole`) XTC is left out, since it needs token ids. They
        are drafts only.
        """
        s = self.sampling
        if 0 < s.top_p < 1:
            logprobs = apply_top_p(logprobs, s.top_p)
        if s.min_p > 0:
            keep = min(s.min_tokens_to_keep, logprobs.shape[-1])
            logprobs = apply_min_p(logprobs, s.min_p, keep)
        if s.xtc_probability > 0 and whole:
            # The coin depends on the position, so mlx-lm's filter is always applied.
            coin = mx.vmap(lambda k: mx.random.uniform(key=k))(coin_keys)
            cut = apply_xtc(logprobs, 1.0, s.xtc_threshold, list(s.xtc_special_tokens))
            logprobs = mx.where((coin > s.xtc_probability)[:, None], logprobs, cut)
        if 0 < s.top_k < logprobs.shape[-1]:
            logprobs = apply_top_k(logprobs, s.top_k)
        return logprobs
