"""Attention of a block of rows that reads keys and values once for all of them.

Owns the choice of kernel, grid and template. Knows no cache, no layer and no verdict.

A row's bits depend only on its query and on the keys that it sees at their absolute
positions: not on the block's other rows, on how many there are, or on keys beyond.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle
from math import e, inf, log2, sqrt

import mlx.core as mx

from .kernel import (
    LEAST_ELEMENTS,
    Case,
    Kernel,
    compiled,
)

NAME = "block_attention"
HEAD_DIMS = (32, 64, 72, 80, 96, 128, 192, 256)
DTYPES = (mx.float32, mx.float16, mx.bfloat16)
MOST_ROWS = 16
# Positions and element counts are 32-bit integers in the kernels.
MOST_KEYS = 2**30
THREADGROUP_BYTES = 32 * 1024
# Tiles of 8 pairs that a threadgroup may hold; more take several threadgroups.
TILES = (8, 6, 4, 3, 2, 1)
# Floats between two pairs' weights in the kernel.
PITCH = 36

Mask = mx.array | str | None


def launch(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    scale: float,
    mask: Mask = None,
    sinks: mx.array | None = None,
    first: int = 0,
) -> mx.array:
    """softmax(scale * q k^T) v, for 1 to 16 rows.

    Split over the keys and joined as in Flash-Decoding (Dao et al., 2023), with the
    online softmax of Milakov and Gimelshein (arXiv:1805.02867).

    Args:
        q: Queries [1, Hq, L, D].
        k, v: Keys and values [1, Hk, N, D], with any strides; Hk divides Hq.
        scale: Of the scores; positive.
        mask: None: every row sees every key. "causal": row r sees keys up to
            N - L + r. A bool array [L, N] or [1, 1, L, N]: where row sees key.
        sinks: A logit per query head [Hq] that joins the sum of weights, or None.
        first: Absolute position of key 0. Calls give a row equal bits where it sees
            the same absolute positions.

    Returns:
        [1, Hq, L, D] in the type of `q`; zeros for a row that sees nothing.
    """
    parts = _parts(q, k, v, scale, mask, first)
    return _join(parts, q, scale, sinks)


def chunk_at(position: int) -> int:
    """The chunk of keys that holds an absolute position: `chunk_start` inverted."""
    octave = min(max(position.bit_length() - 11, 0), 5)
    return (position >> (7 + octave)) + 8 * octave


def shape(pairs: int, dim: int, itemsize: int) -> tuple[int, int]:
    """Tiles of 8 pairs and simdgroups of a threadgroup; they decide no bits.

    As many tiles as fit, but no more than share the pairs evenly. Few tiles leave
    eight simdgroups without work: four are better then.
    """
    tile = 8 * (dim * itemsize + 4 * PITCH + 8)
    fit = [n for n in TILES if n * tile + 64 <= THREADGROUP_BYTES]
    needed = -(-pairs // 8)
    each = -(-needed // -(-needed // fit[0]))
    tiles = min(n for n in fit if n >= each)
    return tiles, 8 if tiles > 2 else 4


def _parts(q, k, v, scale, mask, first) -> mx.array:
    """Sums over each chunk of keys, [Hk, chunks, pairs, D + 2] in float32."""
    heads, rows, dim = q.shape[1:]
    kv_heads, length = k.shape[1:3]
    pairs = heads // kv_heads * rows
    tiles, simds = shape(pairs, dim, q.dtype.size)
    chunk = chunk_at(first)
    chunks = chunk_at(first + length - 1) - chunk + 1
    masks = [_least(mask.reshape(rows, length))] if isinstance(mask, mx.array) else []
    slope, causal = scale * log2(e), int(isinstance(mask, str))
    sizes = [("D", dim), ("TILES", tiles), ("SIMDS", simds)]
    return _parts_kernel(bool(masks))(
        inputs=[mx.contiguous(q), k, v, slope, first, causal, chunk, *masks],
        template=[("T", q.dtype), *sizes],
        grid=(32 * simds * -(-pairs // (8 * tiles)), kv_heads, chunks),
        threadgroup=(32 * simds, 1, 1),
        output_shapes=[(kv_heads, chunks, pairs, dim + 2)],
        output_dtypes=[mx.float32],
    )[0]


def _parts_kernel(masked: bool) -> Callable:
    mask = "mask, mask_strides" if masked else "nullptr, nullptr"
    return compiled(
        NAME,
        "attention_parts_masked" if masked else "attention_parts",
        (*"q k v slope first causal chunk".split(), *(["mask"] if masked else [])),
        ("parts",),
        f"""threadgroup T queries[D * 8 * TILES];
        threadgroup float weights[8 * TILES * PITCH], factor[8 * TILES];
        threadgroup uint broken[SIMDS];
        const Context<T> context{{
            k, v, k_strides, v_strides, {mask}, int(threadgroup_position_in_grid.y),
            k_shape[2], first, q_shape[2], bool(causal), slope}};
        const Scratch<T, D, TILES> scratch{{queries, weights, factor, broken}};
        attention_parts<T, D, TILES, SIMDS>(
            context, scratch,
            q, parts, q_shape[1] / k_shape[1] * q_shape[2], chunk,
            threadgroup_position_in_grid, threadgroups_per_grid,
            simdgroup_index_in_threadgroup, thread_index_in_simdgroup);""",
        contiguous=False,
    )


def _join(parts: mx.array, q: mx.array, scale: float, sinks) -> mx.array:
    """The result from the sums of all chunks."""
    kv_heads, _, pairs, width = parts.shape
    sinks = [] if sinks is None else [_least(sinks)]
    return _join_kernel(bool(sinks))(
        inputs=[parts, scale * log2(e), q.shape[2], *sinks],
        template=[("T", q.dtype), ("S", sinks[0].dtype if sinks else mx.float32)],
        grid=(width - 2, pairs, kv_heads),
        threadgroup=(width - 2, 1, 1),
        output_shapes=[q.shape],
        output_dtypes=[q.dtype],
    )[0]


def _join_kernel(sunk: bool) -> Callable:
    sinks = "sinks" if sunk else "nullptr"
    return compiled(
        NAME,
        "attention_join_sinks" if sunk else "attention_join",
        ("parts", "slope", "rows", *(["sinks"] if sunk else [])),
        ("out",),
        f"""attention_join<T, S>(
            parts, {sinks}, out, parts_shape, rows, slope, thread_position_in_grid);""",
    )


def _least(x: mx.array) -> mx.array:
    """`x` with a longer last axis if it is too small for a `device` pointer."""
    if x.size >= LEAST_ELEMENTS:
        return x
    return mx.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, LEAST_ELEMENTS)])


def twin(q, k, v, scale, mask=None, sinks=None, first=0) -> mx.array:
    """The same from MLX's own attention, in float32 throughout."""
    q, k, v = (x.astype(mx.float32) for x in (q, k, v))
    if isinstance(mask, mx.array):
        mask = mask.reshape(mask.shape[-2:])
    if sinks is not None:
        sinks = sinks.astype(mx.float32)
    return mx.fast.scaled_dot_product_attention(
        q, k, v, scale=scale, mask=mask, sinks=sinks
    )


# Unit roundoffs, and how far n roundings of one size may add up: by chance they grow
# as the root of n, with probability 1 - 1e-7 less than 5 roots (Higham and Mary 2019).
ROUNDOFF = {mx.float32: 2**-24, mx.float16: 2**-11, mx.bfloat16: 2**-8}
SPREAD = 5.0


def tolerance(q, k, v, scale, mask=None, sinks=None, first=0) -> float:
    """Rounding of scores, weights and sums in kernel and twin, and of the result.

    A score's error is that of a sum over D, and that of its scaling; a weight's is
    its score's and 4 units for the exponential; sums over N add theirs to the weighted
    values and to the weights. The result is rounded once to its type.
    """

    def norm(x: mx.array) -> float:
        return mx.linalg.norm(x.astype(mx.float32), axis=-1).max().item()

    score = scale * norm(q) * norm(k)
    weight = score * (SPREAD * sqrt(q.shape[-1]) + 2) + 4
    relative = 2 * (weight + SPREAD * sqrt(k.shape[2])) * ROUNDOFF[mx.float32]
    result = mx.abs(twin(q, k, v, scale, mask, sinks, first)).max().item()
    largest = mx.abs(v.astype(mx.float32)).max().item()
    return 2 * relative * largest + ROUNDOFF[q.dtype] * result


def refuses(q, k, v, scale, mask=None, sinks=None, first=0) -> str:
    """Why `launch` cannot run a call, in a few words; "" if it can."""
    if not all(isinstance(x, mx.array) and x.ndim == 4 for x in (q, k, v)):
        return "queries, keys or values are no plain arrays [1, heads, rows, D]"
    if q.dtype not in DTYPES or not q.dtype == k.dtype == v.dtype:
        return f"types {q.dtype}, {k.dtype}, {v.dtype}"
    if not q.shape[0] == k.shape[0] == 1 or k.shape != v.shape:
        return f"shapes {q.shape}, {k.shape}, {v.shape}"
    heads, rows, dim = q.shape[1:]
    kv_heads, length = k.shape[1:3]
    if dim != k.shape[3] or dim not in HEAD_DIMS:
        return f"head size {dim}"
    if not kv_heads or not heads or heads % kv_heads:
        return f"{heads} query heads over {kv_heads}"
    if not 1 <= rows <= MOST_ROWS:
        return f"{rows} rows"
    if not length or not 0 <= first <= MOST_KEYS - length:
        return f"{length} keys from position {first}"
    if not 0 < scale < inf:
        return f"scale {scale}"
    return _refuses_mask(mask, rows, length) or _refuses_sinks(sinks, heads)


def _refuses_mask(mask: Mask, rows: int, length: int) -> str:
    if mask is None:
        return ""
    if isinstance(mask, str):
        return "" if mask == "causal" and rows <= length else f"mask {mask!r}"
    if mask.dtype != mx.bool_:
        return f"a mask of {mask.dtype}"
    shapes = (rows, length), (1, 1, rows, length)
    return "" if mask.shape in shapes else f"a mask of shape {mask.shape}"


def _refuses_sinks(sinks: mx.array | None, heads: int) -> str:
    if sinks is None or (sinks.shape == (heads,) and sinks.dtype in DTYPES):
        return ""
    return f"sinks {sinks.shape} of {sinks.dtype}"


def sample(
    heads: int,
    kv_heads: int,
    rows: int,
    length: int,
    dim: int,
    dtype: mx.Dtype,
    mask: str | int | None = None,
    sinks: bool = False,
    first: int = 0,
) -> Case:
    """A random call whose keys and values are views of a longer cache.

    Args:
        heads, kv_heads, rows, length, dim, dtype: Sizes and type.
        mask: None, "causal", or a number of keys: a causal window of so many.
        sinks: Whether there are sinks.
        first: Absolute position of key 0.
    """
    keys = iter(mx.random.split(mx.random.key(length * 17 + rows), 4))

    def normal(*shape: int) -> mx.array:
        return mx.random.normal(shape, key=next(keys)).astype(dtype)

    if isinstance(mask, int):
        seen = mx.arange(length) - mx.arange(length - rows, length)[:, None]
        mask = (seen <= 0) & (seen > -mask)
    return dict(
        q=2 * normal(1, heads, rows, dim),
        k=normal(1, kv_heads, length + 5, dim)[:, :, :length],
        v=normal(1, kv_heads, length + 5, dim)[:, :, :length],
        scale=dim**-0.5,
        mask=mask,
        sinks=normal(heads) if sinks else None,
        first=first,
    )


def cases() -> Iterator[Case]:
    """Every head size and type, tile and chunk borders, 1 to 16 heads per KV head."""
    sizes = cycle(  # query heads, KV heads, rows, keys
        [(1, 1, 1, 1), (4, 2, 3, 5), (16, 1, 16, 33), (6, 2, 8, 127), (3, 1, 5, 31)]
        + [(4, 1, 13, 128), (8, 2, 2, 129), (5, 1, 16, 300), (2, 2, 7, 64)]
    )
    masks = cycle((None, "causal", 40, "causal"))
    for dim in HEAD_DIMS:
        for dtype in DTYPES:
            size, mask = next(sizes), next(masks)
            yield sample(*size, dim, dtype, mask, size[2] % 2 == 0)
    yield sample(16, 1, 16, 65, 128, mx.bfloat16, "causal")
    yield sample(6, 1, 16, 140, 256, mx.bfloat16, "causal", True)
    yield sample(9, 1, 16, 70, 256, mx.float32, 50)
    yield sample(4, 1, 4, 1500, 64, mx.bfloat16, 700, True, 900)
    yield sample(2, 1, 3, 1025, 128, mx.float16, "causal", False, 77)


KERNEL = Kernel(NAME, NAME, launch, twin, cases, tolerance, refuses)
