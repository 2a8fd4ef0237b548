"""Views of a stock model that read its tapped layers.

Owns the view that each kind of pass uses: with recurrent layers that can be recorded or
not, over one text or several. Does not know how a pass is run; see base.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from .batched import Texts
from .replay import Recorder
from .views import ModelParts, with_call


@dataclass(frozen=True)
class View:
    """A copy of a model whose tapped layers store their outputs.

    Args:
        model: The copy, which shares every weight.
        taps: The tapped layers, 0-based.
        outputs: By layer, the outputs of the current pass.
        recorder: Records the passes of recurrent layers.
        texts: Runs the layers' modules per text; None for a view of one text.
    """

    model: nn.Module
    taps: tuple[int, ...]
    outputs: dict[int, mx.array]
    recorder: Recorder
    texts: Texts | None

    @classmethod
    def of(
        cls,
        model: nn.Module,
        parts: ModelParts,
        taps: tuple[int, ...],
        recorded: bool,
        together: bool,
    ) -> View:
        """Make a view; with `recorded`, its recurrent layers can be recorded; with
        `together`, its passes are over several texts."""
        outputs: dict[int, mx.array] = {}
        recorder = Recorder()
        texts = Texts(recorder) if together else None
        layers = parts.list_layers(model)
        if texts:
            layers = [texts.share_parts(layer) for layer in layers]
        if recorded:
            layers = [recorder.wrap_layer(layer) for layer in layers]
        if texts:
            layers = [texts.split_children(layer) for layer in layers]
        layers = [
            with_tap(layer, i, outputs) if i in taps else layer
            for i, layer in enumerate(layers)
        ]
        return cls(parts.with_layers(model, layers), taps, outputs, recorder, texts)


def with_tap(layer: nn.Module, index: int, outputs: dict[int, mx.array]) -> nn.Module:
    """A copy of `layer`, sharing its weights, that stores its output in `outputs`."""

    def store(run, *args, **kwargs):
        out = run(*args, **kwargs)
        # Some layers return more than the residual stream.
        outputs[index] = out[0] if isinstance(out, tuple) else out
        return out

    return with_call(layer, store)
