"""Build the embedded pair at the size of a known target, without a download.

Owns the names of shapes and their sizes (shapes.toml), and checks that memory is large
enough. Does not know how a pair is widened (widen.py).

As in the named model: the size of every matrix, heads, layers, vocabulary and KV cache,
so the data read and the arithmetic of a pass, in the target and in its drafter. As in
the small pair: text, acceptance, tokenizer, the drafter's block of 8 rows and window of
128, and the context of 8,192 tokens. Embeddings are always tied. That does not change
the cost of a pass, which reads the whole table as the head and a few rows as the
embedding, but a model with untied embeddings needs one more table in memory. Most
weights are zeros. They take the same time, but a GPU may need less power.
"""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import mlx.core as mx
from mlx_lm.tokenizer_utils import TokenizerWrapper

from .. import device
from ..convert import DTYPES
from ..errors import NotEnoughMemoryError, OptionError
from ..hub import registry
from ..loading import load
from ..metal.dispatch import check_mode
from ..pair import Pair
from ..tuning.calibrate import calibrate
from ..tuning.kernels import Notice, ignore, install_kernels
from ..types import require
from .widen import (
    GROUP,
    RACE,
    DraftShape,
    Shape,
    widen,
)


@dataclass(frozen=True)
class NamedShape:
    """The shape of a known model.

    Args:
        name: An alias of pairs.toml, or the name of another model.
        target: Sizes of the target.
        drafter: Sizes of its drafter.
        note: How the cost differs from the named model's; may be empty.
        dtype: Default dtype; None is the dtype that `load` uses on this machine for
            bfloat16 weights.
    """

    name: str
    target: Shape
    drafter: DraftShape
    note: str = ""
    dtype: str | None = None

    def bytes(self, bits: int | None, draft_bits: int | None, size: int) -> list[int]:
        """Bytes of the target, of the drafter, and of the temporary arrays.

        Args:
            bits, draft_bits: Bits of the quantized weights, or None.
            size: Bytes of a weight that is not quantized.
        """
        shape, draft = self.target, self.drafter
        hidden = shape.hidden_size
        heads = shape.num_attention_heads + shape.num_key_value_heads
        layer = hidden * (2 * heads * shape.head_dim + 3 * shape.intermediate_size)
        table = shape.vocab_size * hidden
        target = shape.num_hidden_layers * layer + table
        drafter = draft.num_hidden_layers * layer + draft.taps * hidden * hidden
        return [
            weight_bytes(target, bits, size),
            weight_bytes(drafter, draft_bits, size),
            # The layer or table under construction exists a second time, unquantized.
            max(layer, table) * size,
        ]


def weight_bytes(weights: int, bits: int | None, size: int) -> int:
    """Bytes of a number of weights; a quantized group adds a scale and a bias."""
    if not bits:
        return weights * size
    return weights * bits // 8 + weights // GROUP * 2 * size


@cache
def named_shapes() -> dict[str, NamedShape]:
    """All shapes by name, the smallest first."""
    found = [NamedShape("race", RACE, DraftShape(2, 3), dtype="float32")]
    for name, row in read_shapes()["shape"].items():
        target, drafter = Shape(**row["target"]), DraftShape(**row["drafter"])
        found.append(NamedShape(name, target, drafter, row.get("note", "")))
    found.sort(key=lambda shape: shape.bytes(None, None, 2)[0])
    return {shape.name: shape for shape in found}


@cache
def aliases_without_shape() -> dict[str, tuple[str, str]]:
    """Alias -> (reason, the shape nearest in size or "")."""
    return {
        alias: (row["reason"], nearest)
        for row in read_shapes()["unavailable"]
        for alias, nearest in row["aliases"].items()
    }


def read_shapes() -> dict:
    """The content of shapes.toml."""
    return tomllib.loads(files(__package__).joinpath("shapes.toml").read_text())


def find_shape(name: str) -> NamedShape:
    """The shape with this name; upper case is allowed.

    Raises:
        OptionError: There is none. The error gives the reason and lists all shapes.
    """
    key = name.lower()
    if key in named_shapes():
        return named_shapes()[key]
    shapes = f"Shapes: {', '.join(named_shapes())}."
    if key in aliases_without_shape():
        reason, nearest = aliases_without_shape()[key]
        hint = f"Similar in size, not in cost: --shape {nearest}. " if nearest else ""
        raise OptionError(f"{name} has no shape: {reason}.", hint + shapes)
    if key in {entry.alias for entry in registry.targets()}:
        raise OptionError(f"{name} has no shape: its sizes are unknown.", shapes)
    close = difflib.get_close_matches(key, named_shapes(), n=2)
    hint = f"Did you mean {' or '.join(close)}? " if close else ""
    raise OptionError(f"There is no shape {name!r}.", hint + shapes)


def load_shape(
    name: str,
    *,
    quantize: int | None = None,
    draft_quantize: int | None = None,
    dtype: str | None = None,
    kernels: str = "auto",
    notice: Notice = ignore,
    status: Notice = ignore,
) -> tuple[Pair, TokenizerWrapper]:
    """Build the embedded pair with the shape, and so the cost, of a known target.

    With greedy decoding in float32, text and acceptance equal the small pair's. In
    bfloat16 or quantized, sums are rounded differently, so the text can differ from the
    first near tie on. With sampling, the 151,424 ids that a Qwen3 shape adds, each as
    unlikely as the mask token, have a total probability of 0.1% at temperature 1 (8% in
    the worst case seen); `top_k=20` excludes them.

    Args:
        name: A key of `named_shapes()`.
        quantize, draft_quantize: 4 or 8 bits, as in `load`.
        dtype: float32, float16 or bfloat16. None is float32 for race; for other shapes
            it is the dtype that `load` uses on this machine for bfloat16 weights.
        kernels, notice, status: As in `load`.

    Returns:
        The pair, and the tokenizer of the small pair.

    Raises:
        OptionError: The shape does not exist, or an option is out of range.
        NotEnoughMemoryError: The shape needs more memory than this machine has. Nothing
            was built.
    """
    for option, bits in (("quantize", quantize), ("draft_quantize", draft_quantize)):
        require(bits in (None, 4, 8), option, "4 or 8", bits)
    allowed = (None, *DTYPES)
    require(dtype in allowed, "dtype", f"one of {', '.join(DTYPES)}", dtype)
    check_mode(kernels)
    shape = find_shape(name)
    dtype = dtype or shape.dtype
    check_memory(shape, quantize, draft_quantize, DTYPES[dtype or "bfloat16"].size)
    pair, tokenizer = load(registry.TINY, kernels="off")
    if dtype:
        pair.model.set_dtype(DTYPES[dtype])
        pair.drafter.set_dtype(DTYPES[dtype])
    pair = widen(
        pair, shape.target, shape.drafter, bits=quantize, draft_bits=draft_quantize
    )
    mx.clear_cache()
    pair = install_kernels(pair, kernels, notice, status=status)
    calibrate(pair, notice, status=status)
    return pair, tokenizer


def check_memory(
    shape: NamedShape, bits: int | None, draft_bits: int | None, size: int
) -> None:
    """Check that a shape fits into memory, before it is built.

    Args:
        shape: The shape.
        bits, draft_bits, size: As in NamedShape.bytes.

    Raises:
        NotEnoughMemoryError: It does not fit.
    """
    available = device.memory_bytes()
    options = (bits, draft_bits, size)
    target, drafter, building = shape.bytes(*options)
    if target + drafter + building <= available:
        return
    hints = []
    if bits != 4 and sum(shape.bytes(4, 4, size)) <= available:
        hints.append("--quantize 4 --draft-quantize 4")
    shapes = named_shapes().values()
    fitting = [s.name for s in shapes if sum(s.bytes(*options)) <= available]
    hints += [f"--shape {fitting[-1]}"] if fitting else []
    raise NotEnoughMemoryError(
        f"The shape {shape.name} needs {target / device.GIB:.1f} GiB for the target, "
        f"{drafter / device.GIB:.1f} GiB for the drafter and "
        f"{building / device.GIB:.1f} GiB to build them, but this machine has "
        f"{available / device.GIB:.1f} GiB.",
        f"Try {' or '.join(hints)}." if hints else "",
    )
