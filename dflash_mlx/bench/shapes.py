"""Shapes by name: the embedded pair at the size of a registered target, no download.

Owns the names and their numbers (shapes.toml), and what must be right before anything
is built: that the name has a shape, that memory holds it. How a pair is widened is
widen.py's.

What is true to the named model: the width of every matrix, heads, layers, vocabulary,
so what is read and computed in a pass, of the target and of its drafter, and the KV
cache. What is the small pair's: words, acceptance, tokenizer, the drafter's block of
8 rows and window of 128, the context of 8,192 tokens. Embeddings are tied also where
the model's are not: a pass then reads one table as the head, and a few rows of it as
the embedding, which is what it reads of two; only memory is short of one table.
Matrices are mostly zeros, which take the time of other numbers; a GPU may draw less
power on them.
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
from ..tuning.kernels import Notice, install_kernels, quiet
from ..types import require
from .widen import (
    GROUP,
    RACE,
    DraftShape,
    Shape,
    widen,
)


@dataclass(frozen=True)
class Entry:
    """A shape that has a name.

    Args:
        name: An alias of pairs.toml, or another model's.
        target: The target's numbers.
        drafter: Its drafter's depth.
        note: In what the cost differs from the named model's, or "".
        dtype: What it is built in unless it is said otherwise; None is what `load`
            makes of bfloat16 on this machine.
    """

    name: str
    target: Shape
    drafter: DraftShape
    note: str = ""
    dtype: str | None = None

    def bytes(self, bits: int | None, draft_bits: int | None, size: int) -> list[int]:
        """Memory that target, drafter and building them need.

        Args:
            bits, draft_bits: Of their quantization, or None.
            size: Bytes of a number that is not quantized.
        """
        shape, draft = self.target, self.drafter
        hidden = shape.hidden_size
        heads = shape.num_attention_heads + shape.num_key_value_heads
        layer = hidden * (2 * heads * shape.head_dim + 3 * shape.intermediate_size)
        table = shape.vocab_size * hidden
        drafted = draft.num_hidden_layers * layer + draft.taps * hidden * hidden
        return [
            packed_bytes(shape.num_hidden_layers * layer + table, bits, size),
            packed_bytes(drafted, draft_bits, size),
            # What is being built is there unquantized too, or twice.
            max(layer, table) * size,
        ]


def packed_bytes(numbers: int, bits: int | None, size: int) -> int:
    """Bytes of so many numbers; quantized groups have a scale and a bias each."""
    if not bits:
        return numbers * size
    return numbers * bits // 8 + numbers // GROUP * 2 * size


@cache
def entries() -> dict[str, Entry]:
    """All shapes by name, the smallest first."""
    found = [Entry("race", RACE, DraftShape(2, 3), dtype="float32")]
    for name, row in read()["shape"].items():
        target, drafter = Shape(**row["target"]), DraftShape(**row["drafter"])
        found.append(Entry(name, target, drafter, row.get("note", "")))
    found.sort(key=lambda entry: entry.bytes(None, None, 2)[0])
    return {entry.name: entry for entry in found}


@cache
def refused() -> dict[str, tuple[str, str]]:
    """Aliases that have no shape: why, and the shape nearest in size, or ""."""
    return {
        alias: (row["why"], nearest)
        for row in read()["refused"]
        for alias, nearest in row["aliases"].items()
    }


def read() -> dict:
    """shapes.toml."""
    return tomllib.loads(files(__package__).joinpath("shapes.toml").read_text())


def find(name: str) -> Entry:
    """The shape of a name.

    Raises:
        OptionError: There is none; the shapes are named, and why it has none.
    """
    key = name.lower()
    if key in entries():
        return entries()[key]
    shapes = f"Shapes: {', '.join(entries())}."
    if key in refused():
        why, nearest = refused()[key]
        near = f"Nearest in size, not in cost: --shape {nearest}. " if nearest else ""
        raise OptionError(f"{name} has no shape: {why}.", near + shapes)
    if key in {entry.alias for entry in registry.targets()}:
        raise OptionError(f"{name} has no shape: its numbers are not known.", shapes)
    close = difflib.get_close_matches(key, entries(), n=2)
    hint = f"Did you mean {' or '.join(close)}? " if close else ""
    raise OptionError(f"{name!r} is no shape.", hint + shapes)


def shaped(
    name: str,
    *,
    quantize: int | None = None,
    draft_quantize: int | None = None,
    dtype: str | None = None,
    kernels: str = "auto",
    notice: Notice = quiet,
) -> tuple[Pair, TokenizerWrapper]:
    """The embedded pair with the shape, and so the cost, of a registered target.

    Greedy, in float32, it says what the small pair says, and accepts what that accepts.
    In bfloat16, and quantized, sums are rounded elsewhere than in the small pair: the
    words are the same until two nearly tie. With sampling, the 151,424 ids that a
    Qwen3 shape adds, each as unlikely as the mask token, have together 0.1% of a
    choice at temperature 1 (8% of the worst one seen); `top_k` 20 keeps them out.

    Args:
        name: One of `entries()`.
        quantize, draft_quantize: Bits (4 or 8), as `load` has them.
        dtype: float32, float16 or bfloat16; None is float32 for race, and what `load`
            makes of bfloat16 on this machine for all others.
        kernels, notice: As in `load`.

    Returns:
        The pair and the small pair's tokenizer.

    Raises:
        OptionError: There is no such shape, or an option is out of range.
        NotEnoughMemoryError: This machine cannot hold it; nothing was built.
    """
    for option, bits in (("quantize", quantize), ("draft_quantize", draft_quantize)):
        require(bits in (None, 4, 8), option, "4 or 8", bits)
    known = (None, *DTYPES)
    require(dtype in known, "dtype", f"one of {', '.join(DTYPES)}", dtype)
    check_mode(kernels)
    entry = find(name)
    dtype = dtype or entry.dtype
    check_memory(entry, quantize, draft_quantize, DTYPES[dtype or "bfloat16"].size)
    pair, tokenizer = load(registry.TINY, kernels="off")
    if dtype:
        pair.model.set_dtype(DTYPES[dtype])
        pair.drafter.set_dtype(DTYPES[dtype])
    pair = widen(
        pair, entry.target, entry.drafter, bits=quantize, draft_bits=draft_quantize
    )
    mx.clear_cache()
    pair = install_kernels(pair, kernels, notice)
    calibrate(pair, notice)
    return pair, tokenizer


def check_memory(
    entry: Entry, bits: int | None, draft_bits: int | None, size: int
) -> None:
    """Raise NotEnoughMemoryError when a shape will not fit, before it is built.

    Args:
        entry: The shape.
        bits, draft_bits, size: As in Entry.bytes.
    """
    have = device.memory_bytes()
    target, drafter, building = entry.bytes(bits, draft_bits, size)
    if target + drafter + building <= have:
        return
    hints = []
    if bits != 4 and sum(entry.bytes(4, 4, size)) <= have:
        hints.append("--quantize 4 --draft-quantize 4")
    asked = (bits, draft_bits, size)
    fit = [e.name for e in entries().values() if sum(e.bytes(*asked)) <= have]
    hints += [f"--shape {fit[-1]}"] if fit else []
    raise NotEnoughMemoryError(
        f"The shape {entry.name} needs {target / device.GIB:.1f} GiB for the target, "
        f"{drafter / device.GIB:.1f} GiB for the drafter and "
        f"{building / device.GIB:.1f} GiB to build them, but this machine has "
        f"{have / device.GIB:.1f} GiB for them.",
        f"Try {' or '.join(hints)}." if hints else "",
    )
