"""A stock mlx-lm model as a verifier: logits and features from one pass.

Owns the passes over a model, the check whether it can be drafted for, and the rollback
of a block. The model does not change: features and recurrent states are read by views,
shallow copies that share every weight and record outputs. So the arithmetic is that of
the installed mlx-lm. Does not know drafters, samplers or the loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property
from itertools import accumulate
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.models.pipeline import PipelineMixin

from ...cache import kinds, rollback, state
from ...errors import OptionError, PromptError, UnsupportedError
from ...hub import architectures
from ...hub.config import context_length
from ...hub.registry import numbers_of
from ...metal.kernel import MAX_ROWS
from ...types import KVBits
from .batched import Entries, group_rows
from .replay import Tape
from .taps import View
from .views import ModelParts, embedding_shape

SHARDED = (
    nn.AllToShardedLinear,
    nn.ShardedToAllLinear,
    nn.QuantizedAllToShardedLinear,
    nn.QuantizedShardedToAllLinear,
)


class Target:
    """The target contract, for any model whose parts `ModelParts` finds.

    A family whose embedding does more than a lookup, or whose head does more than a
    multiplication, gets a subclass in its own file and a line in `targets.FAMILIES`.

    After the first pass, the model's layers must not be replaced: views would miss it.
    See `forget_views`.

    Args:
        model: The loaded mlx-lm model.
        config: Its config.json, as far as known.

    Attributes:
        exact: Caches keep their rows in the order of the text, so that the sums over a
            row have the same order in every pass.
        context: The longest text that the model supports, in tokens; None if unknown.
        blocks_agree: mlx-lm's own pass over several rows gives the bits of passes over
            single rows, where MLX's operations do (on the CPU).
    """

    exact = False

    def __init__(self, model: nn.Module, config: dict[str, Any] | None = None):
        self.model = model
        self.config = config or {}
        self._many: dict[tuple[int, ...], bool] = {}  # by taps
        self._views: dict[tuple[tuple[int, ...], bool, bool], View] = {}
        self.context = context_length(self.config)
        family = architectures.find(type(model).__module__.rpartition(".")[2])
        self.blocks_agree = family is not None and family.exact

    @cached_property
    def parts(self) -> ModelParts:
        """Where the model keeps its parts. Plain decoding does not need them.

        Raises:
            UnsupportedError: The model's layout is unknown.
        """
        return ModelParts.of(self.model)

    @property
    def num_layers(self) -> int:
        """The number of layers."""
        return len(self.parts.list_layers(self.model))

    @property
    def vocab_size(self) -> int:
        """The number of rows of the embedding."""
        return embedding_shape(self.parts.embedding)[0]

    @property
    def hidden_size(self) -> int:
        """The width of the residual stream."""
        return embedding_shape(self.parts.embedding)[1]

    @property
    def numbers(self) -> dict[str, int]:
        """hidden_size, num_layers and vocab_size: the config's, or the model's own if
        the config leaves one out.

        Raises:
            UnsupportedError: The config leaves one out, and the model's layout is
                unknown.
        """
        found = numbers_of(self.config)
        names = ("hidden_size", "num_layers", "vocab_size")
        return {name: found[name] or getattr(self, name) for name in names}

    def check_ids(self, ids: Sequence[int]) -> None:
        """Raise PromptError if the embedding has no row for a token.

        MLX does not check it, and would read other memory.
        """
        try:
            rows = self.vocab_size
        except UnsupportedError:  # plain decoding works with any layout
            rows = numbers_of(self.config)["vocab_size"]
        rows = 2**62 if rows is None else rows
        wrong = [i for i in ids if not 0 <= i < rows]
        if wrong:
            raise PromptError(
                f"The prompt has the token {wrong[0]}, but the model knows the tokens "
                f"0 to {rows - 1}.",
                "Use the tokenizer that belongs to the model.",
            )

    def embed(self, ids: mx.array) -> mx.array:
        """Embeddings [..., n, H] of token ids [..., n]."""
        return self.parts.embedding(ids)

    def head(self, h: mx.array) -> mx.array:
        """Logits [..., V] of normed hidden states [..., H]."""
        if self.parts.head is not None:
            return self.parts.head(h)
        return self.parts.embedding.as_linear(h)

    def make_cache(self, max_kv_size: int | None = None) -> list[Any]:
        """Make an empty cache with one entry per layer, as mlx-lm does.

        Args:
            max_kv_size: The most rows of every layer that sees the whole text. Unlike
                in mlx-lm, it also applies to models that make their own cache.

        Raises:
            OptionError: No layer can be bounded, or the model does not allow it.
        """
        cache = make_prompt_cache(self.model)
        if self.exact:
            kinds.order_windows(cache)
        if max_kv_size is not None:
            self._refuse_exact("max_kv_size")
            kinds.bound(cache, max_kv_size)
            # Building a graph shows whether the model's masks allow a bound.
            probe = make_prompt_cache(self.model)
            kinds.bound(probe, max_kv_size)
            self.model(mx.zeros((1, 2), mx.uint32), cache=probe)
        return cache

    def forward(
        self, tokens: mx.array, cache: list[Any], taps: tuple[int, ...] = ()
    ) -> tuple[mx.array, mx.array]:
        """Run the model on tokens that follow those in the cache.

        Args:
            tokens: [1, n] token ids.
            cache: From `make_cache`; gets n more rows.
            taps: 0-based layers to read, in this order.

        Returns:
            Logits [1, n, V] and features [1, n, len(taps) * H], the residual stream
            after each tapped layer. Both are lazy: unused rows are not computed.
        """
        if not taps:
            return self.model(tokens, cache=cache), mx.zeros((1, tokens.shape[1], 0))
        return self._run(self._view(taps, recorded=False), tokens, cache)

    def verify(
        self, tokens: mx.array, cache: list[Any], taps: tuple[int, ...] = ()
    ) -> tuple[mx.array, mx.array, Tape | None]:
        """Run the model on a block, so that `commit` can remove its last rows.

        Args:
            tokens, cache, taps: As in `forward`.

        Returns:
            Logits and features as in `forward`, and the recording from which recurrent
            layers are rewound; None if the model has none.
        """
        with kinds.block_masks(cache):
            if not rollback.recurrent_entries(cache):
                return *self.forward(tokens, cache, taps), None
            view = self._view(taps, recorded=True)
            tape = Tape(view.recorder)
            with view.recorder.recording(tape):
                return *self._run(view, tokens, cache), tape

    def verify_many(
        self,
        blocks: Sequence[mx.array],
        caches: Sequence[list[Any]],
        taps: tuple[int, ...] = (),
    ) -> list[tuple[mx.array, mx.array, Tape | None]]:
        """Run the model once on the blocks of several texts.

        Each text gets what `verify` alone would give it. See `check_many`. If the
        target is exact, passes have at most as many rows as its kernels take.

        Args:
            blocks: By text, [1, n] token ids; n may differ, and may be 1.
            caches: The texts' caches, all different; each gets n more rows.
            taps: As in `forward`.

        Returns:
            By text, what `verify` returns.
        """
        widths, found = [block.shape[1] for block in blocks], []
        for group in group_rows(widths, MAX_ROWS if self.exact else sum(widths)):
            found += self._verify_group(blocks[group], caches[group], taps)
        return found

    def _verify_group(self, blocks, caches, taps):
        """The outputs of `verify` for each of some texts, from one pass."""
        if len(blocks) == 1:
            return [self.verify(blocks[0], caches[0], taps)]
        widths = [block.shape[1] for block in blocks]
        recorded = any(rollback.recurrent_entries(cache) for cache in caches)
        view = self._view(taps, recorded, together=True)
        tapes = [Tape(view.recorder) if recorded else None for _ in blocks]
        entries = [Entries(layer, widths) for layer in zip(*caches, strict=True)]
        with ExitStack() as stack:
            for cache in caches:
                stack.enter_context(kinds.block_masks(cache))
            stack.enter_context(view.texts.passing(widths, tapes))
            rows = self._run(view, mx.concatenate(blocks, axis=1), entries)
        ends = list(accumulate(widths))[:-1]
        logits, features = (mx.split(array, ends, axis=1) for array in rows)
        return list(zip(logits, features, tapes, strict=True))

    def commit(self, cache: list[Any], tape: Tape | None, rows: int, keep: int) -> None:
        """Keep the first `keep` of a verified block's `rows` in the cache."""
        if keep == rows:
            return
        rollback.drop_rows(cache, rows - keep)
        if tape is not None:
            tape.rewind(keep)

    def check(self, taps: tuple[int, ...] = ()) -> None:
        """Raise UnsupportedError unless blocks can be verified and rolled back.

        Computes nothing: builds the graph over two rows and drops it.

        Args:
            taps: The layers that the drafter reads.
        """
        check_not_distributed(self.model)
        cache = self.make_cache()
        rollback.check(cache)
        states = {id(entry) for entry in rollback.recurrent_entries(cache)}
        _, features, tape = self.verify(mx.zeros((1, 2), mx.uint32), cache, taps)
        if features.shape != (1, 2, len(taps) * self.hidden_size):
            raise self._unsupported("has layers whose features cannot be read")
        self.commit(cache, tape, 2, 1)
        if states - {id(step.entry) for step in (tape.steps if tape else ())}:
            raise self._unsupported("keeps a recurrent state outside its layers")

    def can_verify_many(self, taps: tuple[int, ...] = ()) -> bool:
        """Whether `verify_many` can run this model; see `check_many`."""
        if taps not in self._many:
            try:
                self.check_many(taps)
                self._many[taps] = True
            except UnsupportedError:
                self._many[taps] = False
        return self._many[taps]

    def check_many(self, taps: tuple[int, ...] = ()) -> None:
        """Raise UnsupportedError unless `verify_many` can run this model.

        Computes nothing: builds graphs over two texts of unequal lengths and widths,
        and compares the shapes of what each text gets with those of its own pass.

        Args:
            taps: As in `forward`.
        """
        blocks = [mx.zeros((1, n), mx.uint32) for n in (2, 3)]
        alone, together = [], []
        for block in blocks:
            for caches in (alone, together):
                caches.append(self.make_cache())
                self.verify(mx.zeros((1, 2 * block.size), mx.uint32), caches[-1], taps)
        pairs = zip(blocks, alone, strict=True)
        expected = [self.verify(block, cache, taps) for block, cache in pairs]
        try:
            found = self.verify_many(blocks, together, taps)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            found = []
        if shapes(expected, alone) != shapes(found, together):
            raise UnsupportedError(
                f"{type(self.model).__module__} cannot pass the rows of several texts "
                "at once.",
                "Pass one text after the other.",
            )

    def check_kv(self, options: KVBits, used: list[Any]) -> None:
        """Raise OptionError if the KV cache cannot be quantized with these options.

        Computes nothing: builds the graph over two rows and drops it.

        Args:
            options: The options.
            used: The cache that will be quantized.
        """
        if not options.bits:
            return
        self._refuse_exact("kv_bits")
        kinds.check_quantization(used, options.bits, options.group_size)
        cache = self.make_cache()
        before = [type(entry) for entry in kinds.flat(cache)]
        kinds.quantize(cache, options.bits, options.group_size, 0)
        if before == [type(entry) for entry in kinds.flat(cache)]:
            raise OptionError(
                "kv_bits has nothing to quantize: no layer of this model has a growing "
                "KV cache.",
                "Leave it out.",
            )
        try:
            self.forward(mx.zeros((1, 2), mx.uint32), cache)
        except (ValueError, TypeError, AttributeError) as error:
            raise OptionError(
                f"This model cannot use a KV cache of {options.bits} bits in groups of "
                f"{options.group_size}: {str(error).rstrip('.')}.",
                "Choose another kv_group_size, or leave kv_bits out.",
            ) from error

    def forget_views(self) -> None:
        """Drop the views, because the classes of the model's layers have changed."""
        self._views.clear()

    def _refuse_exact(self, option):
        if self.exact:
            raise OptionError(f"{option} and exact exclude each other.", "Drop one.")

    def _unsupported(self, why):
        return UnsupportedError(
            f"{type(self.model).__module__} {why}.", "Run it with --plain."
        )

    def _run(self, view, tokens, cache):
        try:
            logits = view.model(tokens, cache=cache)
            features = [view.outputs[tap] for tap in view.taps if tap in view.outputs]
        finally:
            view.outputs.clear()
        if len(features) < len(view.taps):
            raise self._unsupported("has layers whose features cannot be read")
        if not features:
            return logits, mx.zeros((1, tokens.shape[1], 0))
        return logits, mx.concatenate(features, axis=-1)

    def _view(self, taps, recorded, together=False):
        key = (taps, recorded, together)
        if key not in self._views:
            self._views[key] = View.of(self.model, self.parts, *key)
        return self._views[key]


def shapes(
    outputs: Sequence[tuple[mx.array, mx.array, Tape | None]],
    caches: Sequence[list[Any]],
) -> list[tuple[int, ...]]:
    """The shapes of what `verify` returned for some texts, and of their caches."""
    arrays = [array for found in outputs for array in found[:2]]
    for cache in caches:
        entries = [entry for entry in kinds.flat(cache) if rollback.has_rule(entry)]
        arrays += [array for e in entries for array in state.read(e).present_arrays()]
    return [array.shape for array in arrays]


def check_not_distributed(model: nn.Module) -> None:
    """Raise UnsupportedError if other machines hold parts of the model."""
    for _, module in model.named_modules():
        split = isinstance(module, PipelineMixin) and module.pipeline_size > 1
        if split or isinstance(module, SHARDED):
            raise UnsupportedError(
                "The model is distributed over several machines.",
                "Run it with --plain.",
            )
