"""A stock mlx-lm model as a verifier: logits and tapped features from one pass.

Owns the passes over a model, the verdict whether it can be drafted for, and the way a
block's rows are taken back. Knows nothing of drafters, samplers or the loop, and
changes nothing in the model: features and recurrent states come from views of it,
shallow copies that share every weight and watch what passes. So the arithmetic is
mlx-lm's own, in whatever version is installed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.models.pipeline import PipelineMixin

from ...cache import kinds, rollback
from ...errors import OptionError, UnsupportedError
from ...types import KVBits
from .replay import Recorder, Tape
from .views import ModelParts, embedding_shape, watched

SHARDED = (
    nn.AllToShardedLinear,
    nn.ShardedToAllLinear,
    nn.QuantizedAllToShardedLinear,
    nn.QuantizedShardedToAllLinear,
)


class Target:
    """The target contract over any model whose parts `ModelParts` finds.

    A family whose embedding or head does more than look up and multiply gets a
    subclass in its own file and a line in `targets.FAMILIES`.

    The model must not change any more: views share its weights, not its future.

    Args:
        model: The loaded mlx-lm model.
        config: Its config.json, as far as known.

    Attributes:
        exact: Caches keep their rows in the order of the text, so that a row's sums
            run alike in every pass.
    """

    exact = False

    def __init__(self, model: nn.Module, config: dict[str, Any] | None = None):
        self.model = model
        self.config = config or {}
        self._views: dict[tuple[tuple[int, ...], bool], View] = {}
        text = self.config.get("text_config") or self.config
        self.context = text.get("max_position_embeddings")

    @cached_property
    def anatomy(self) -> ModelParts:
        """Where the model keeps its parts; plain decoding needs none of them.

        Raises:
            UnsupportedError: It keeps them in a place that is not known here.
        """
        return ModelParts.of(self.model)

    @property
    def num_layers(self) -> int:
        """Layers of the model."""
        return len(self.anatomy.list_layers(self.model))

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding."""
        return embedding_shape(self.anatomy.embedding)[0]

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        return embedding_shape(self.anatomy.embedding)[1]

    def embed(self, ids: mx.array) -> mx.array:
        """Token ids [..., n] to rows of the embedding [..., n, H]."""
        return self.anatomy.embedding(ids)

    def head(self, h: mx.array) -> mx.array:
        """Normed hidden states [..., H] to logits [..., V]."""
        if self.anatomy.head is not None:
            return self.anatomy.head(h)
        return self.anatomy.embedding.as_linear(h)

    def make_cache(self, max_kv_size: int | None = None) -> list[Any]:
        """A fresh cache, one entry a layer, as mlx-lm makes it.

        Args:
            max_kv_size: Bounds every layer that sees the whole text, also where
                mlx-lm does not listen because the model makes its own cache.

        Raises:
            OptionError: There is nothing to bound, or it cannot be.
        """
        cache = make_prompt_cache(self.model)
        if self.exact:
            kinds.order(cache)
        if max_kv_size is not None:
            self._refuse_exact("max_kv_size")
            kinds.bound(cache, max_kv_size)
            # The model's masks may not go with a bound; its graph says so.
            probe = make_prompt_cache(self.model)
            kinds.bound(probe, max_kv_size)
            self.model(mx.zeros((1, 2), mx.uint32), cache=probe)
        return cache

    def forward(
        self, tokens: mx.array, cache: list[Any], taps: tuple[int, ...] = ()
    ) -> tuple[mx.array, mx.array]:
        """Run the model on new tokens behind what the cache holds.

        Args:
            tokens: [1, n] token ids.
            cache: From `make_cache`; n rows longer afterwards.
            taps: 0-based layers whose output is wanted, in this order.

        Returns:
            Logits [1, n, V], and features [1, n, len(taps) * H]: the residual
            stream after each tapped layer. Both lazy: what nobody reads is not
            computed.
        """
        if not taps:
            return self.model(tokens, cache=cache), mx.zeros((1, tokens.shape[1], 0))
        return self._run(self._view(taps, recorded=False), tokens, cache)

    def verify(
        self, tokens: mx.array, cache: list[Any], taps: tuple[int, ...] = ()
    ) -> tuple[mx.array, mx.array, Tape | None]:
        """`forward` over a block whose last rows may be taken back with `commit`.

        Returns:
            Logits and features as `forward` gives them, and what is needed to rewind
            the model's recurrent layers; None where it has none.
        """
        with kinds.block_masks(cache):
            if not rollback.recurrent(cache):
                return *self.forward(tokens, cache, taps), None
            view = self._view(taps, recorded=True)
            tape = Tape(view.recorder)
            with view.recorder.noting(tape):
                return *self._run(view, tokens, cache), tape

    def commit(self, cache: list[Any], tape: Tape | None, rows: int, keep: int) -> None:
        """Leave the cache of a verified block with the first `keep` of its `rows`."""
        if keep == rows:
            return
        rollback.drop_rows(cache, rows - keep)
        if tape is not None:
            tape.rewind(keep)

    def check(self, taps: tuple[int, ...] = ()) -> None:
        """Raise UnsupportedError unless blocks can be verified and taken back.

        Nothing is computed: the graph over two rows is built and dropped.

        Args:
            taps: Layers whose features will be wanted.
        """
        check_alone(self.model)
        cache = self.make_cache()
        rollback.check(cache)
        states = {id(entry) for entry in rollback.recurrent(cache)}
        _, features, tape = self.verify(mx.zeros((1, 2), mx.uint32), cache, taps)
        if features.shape != (1, 2, len(taps) * self.hidden_size):
            raise self._unsupported("gives no features of its layers")
        self.commit(cache, tape, 2, 1)
        if states - {id(step.entry) for step in (tape.steps if tape else ())}:
            raise self._unsupported("keeps a recurrent state out of its layers")

    def check_kv(self, options: KVBits, used: list[Any]) -> None:
        """Raise OptionError where the KV cache cannot be quantized as asked.

        Nothing is computed: the graph over two rows is built and dropped.

        Args:
            options: What is asked for.
            used: The cache that it is asked for.
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
                "kv_bits has nothing to quantize: this model's layers keep no growing "
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
        """Copy the model's layers anew: their classes have changed."""
        self._views.clear()

    def _refuse_exact(self, option):
        if self.exact:
            raise OptionError(f"{option} and exact exclude each other.", "Drop one.")

    def _unsupported(self, what):
        return UnsupportedError(
            f"A model of {type(self.model).__module__} {what}.", "Run it with --plain."
        )

    def _run(self, view, tokens, cache):
        try:
            logits = view.model(tokens, cache=cache)
            parts = [view.seen[tap] for tap in view.taps if tap in view.seen]
        finally:
            view.seen.clear()
        if len(parts) < len(view.taps):
            raise self._unsupported("gives no features of its layers")
        if not parts:
            return logits, mx.zeros((1, tokens.shape[1], 0))
        return logits, mx.concatenate(parts, axis=-1)

    def _view(self, taps, recorded):
        key = (taps, recorded)
        if key not in self._views:
            self._views[key] = View.of(self.model, self.anatomy, taps, recorded)
        return self._views[key]


@dataclass(frozen=True)
class View:
    """A copy of a model whose tapped and recurrent layers are watched.

    Args:
        model: The copy; it shares every weight.
        taps: 0-based layers whose output goes to `seen`.
        seen: By layer, the output of the pass under way.
        recorder: Notes the recurrent layers' work.
    """

    model: nn.Module
    taps: tuple[int, ...]
    seen: dict[int, mx.array]
    recorder: Recorder

    @classmethod
    def of(
        cls,
        model: nn.Module,
        anatomy: ModelParts,
        taps: tuple[int, ...],
        recorded: bool,
    ) -> View:
        """Copy `model`; with `recorded`, its recurrent layers are watched too."""
        seen: dict[int, mx.array] = {}
        recorder = Recorder()
        layers = anatomy.list_layers(model)
        if recorded:
            layers = [recorder.layer(layer) for layer in layers]
        layers = [
            tapped(layer, i, seen) if i in taps else layer
            for i, layer in enumerate(layers)
        ]
        return cls(anatomy.with_layers(model, layers), taps, seen, recorder)


def tapped(layer: nn.Module, index: int, seen: dict[int, mx.array]) -> nn.Module:
    """A copy of `layer`, sharing its weights, that stores its output in `seen`."""

    def note(run, *args, **kwargs):
        out = run(*args, **kwargs)
        # Some layers hand more than the residual stream to the next one.
        seen[index] = out[0] if isinstance(out, tuple) else out
        return out

    return watched(layer, note)


def check_alone(model: nn.Module) -> None:
    """Raise UnsupportedError where other machines hold parts of the model."""
    for _, module in model.named_modules():
        split = isinstance(module, PipelineMixin) and module.pipeline_size > 1
        if split or isinstance(module, SHARDED):
            raise UnsupportedError(
                "The model is spread over several machines.", "Run it with --plain."
            )
