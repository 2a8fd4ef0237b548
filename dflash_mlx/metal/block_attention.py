"""Attention of a block of rows, which reads keys and values once for all rows.

Owns the choice of kernel, grid and template. Knows no cache, no layer and no verdict.

A row's bits depend only on its query and on the keys that it sees, at their absolute
positions. They do not depend on the block's other rows, the width of the block or keys
that the row does not see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle
from math import e, inf, log2, sqrt

import mlx.core as mx

from .kernel import MAX_ROWS, MIN_ELEMENTS, Case, Kernel, compiled

NAME = "block_attention"
SOURCES = ("block_attention_tiles", "block_attention")
HEAD_DIMS = (32, 64, 72, 80, 96, 128, 192, 256)
DTYPES = (mx.float32, mx.float16, mx.bfloat16)
# Positions and element counts are 32-bit integers in the kernels.
MAX_KEYS = 2**30
THREADGROUP_BYTES = 32 * 1024
# A pair is one query head and one row. A threadgroup holds one of these numbers of
# tiles, each of 8 pairs.
TILES = (8, 6, 4, 3, 2, 1)
# Distance in floats between the weights of two pairs in threadgroup memory.
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
    """Compute softmax(scale * q k^T) v for 1 to 16 rows.

    The keys are split into chunks, whose sums are joined, as in Flash-Decoding (Dao et
    al., 2023), with the online softmax of Milakov and Gimelshein (arXiv:1805.02867).

    Args:
        q: Queries [1, Hq, L, D].
        k, v: Keys and values [1, Hk, N, D], with any strides; Hk divides Hq.
        scale: Factor of the scores; positive.
        mask: None: every row sees every key. "causal": row r sees keys up to
            N - L + r. A bool array [L, N] or [1, 1, L, N]: True where a row sees a key.
        sinks: A logit per query head [Hq] that is added to the sum of weights, or None.
        first: Absolute position of key 0. Two calls give a row equal bits if it sees
            the same absolute positions in both.

    Returns:
        [1, Hq, L, D] in the dtype of `q`; zeros for a row that sees no key.
    """
    parts = _parts(q, k, v, scale, mask, first)
    return _join(parts, q, scale, sinks)


def chunk_at(position: int) -> int:
    """The chunk that contains an absolute position: the inverse of `chunk_start` in the
    Metal source."""
    octave = min(max(position.bit_length() - 11, 0), 5)
    return (position >> (7 + octave)) + 8 * octave


def threadgroup_shape(pairs: int, dim: int, itemsize: int) -> tuple[int, int]:
    """The number of tiles and of simdgroups per threadgroup. No result depends on them.

    A threadgroup has as many tiles as fit its memory, but no more than are needed to
    share the pairs evenly. One or two tiles do not occupy eight simdgroups, so they get
    four.
    """
    tile_bytes = 8 * (dim * itemsize + 4 * PITCH + 8)
    fitting = [n for n in TILES if n * tile_bytes + 64 <= THREADGROUP_BYTES]
    needed = -(-pairs // 8)
    groups = -(-needed // fitting[0])
    tiles = min(n for n in fitting if n >= -(-needed // groups))
    return tiles, 8 if tiles > 2 else 4


def _parts(q, k, v, scale, mask, first) -> mx.array:
    """The sums over each chunk of keys: [Hk, chunks, pairs, D + 2] in float32."""
    heads, rows, dim = q.shape[1:]
    kv_heads, length = k.shape[1:3]
    pairs = heads // kv_heads * rows
    tiles, simds = threadgroup_shape(pairs, dim, q.dtype.size)
    chunk = chunk_at(first)
    chunks = chunk_at(first + length - 1) - chunk + 1
    masks = [_padded(mask.reshape(rows, length))] if isinstance(mask, mx.array) else []
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
        SOURCES,
        "attention_parts_masked" if masked else "attention_parts",
        (*"q k v slope first causal chunk".split(), *(["mask"] if masked else [])),
        ("parts",),
        f"""threadgroup T queries[D * 8 * TILES];
        threadgroup float weights[8 * TILES * PITCH], factor[8 * TILES];
        threadgroup uint nonfinite[SIMDS];
        const Context<T> context{{
            k, v, k_strides, v_strides, {mask}, int(threadgroup_position_in_grid.y),
            k_shape[2], first, q_shape[2], bool(causal), slope}};
        const Scratch<T, D, TILES> scratch{{queries, weights, factor, nonfinite}};
        attention_parts<T, D, TILES, SIMDS>(
            context, scratch,
            q, parts, q_shape[1] / k_shape[1] * q_shape[2], chunk,
            threadgroup_position_in_grid, threadgroups_per_grid,
            simdgroup_index_in_threadgroup, thread_index_in_simdgroup);""",
        contiguous=False,
    )


def _join(parts: mx.array, q: mx.array, scale: float, sinks) -> mx.array:
    """The result, from the sums over all chunks."""
    kv_heads, _, pairs, width = parts.shape
    sinks = [] if sinks is None else [_padded(sinks)]
    return _join_kernel(bool(sinks))(
        inputs=[parts, scale * log2(e), q.shape[2], *sinks],
        template=[("T", q.dtype), ("S", sinks[0].dtype if sinks else mx.float32)],
        grid=(width - 2, pairs, kv_heads),
        threadgroup=(width - 2, 1, 1),
        output_shapes=[q.shape],
        output_dtypes=[q.dtype],
    )[0]


def _join_kernel(with_sinks: bool) -> Callable:
    sinks = "sinks" if with_sinks else "nullptr"
    return compiled(
        SOURCES,
        "attention_join_sinks" if with_sinks else "attention_join",
        ("parts", "slope", "rows", *(["sinks"] if with_sinks else [])),
        ("out",),
        f"""attention_join<T, S>(
            parts, {sinks}, out, parts_shape, rows, slope, thread_position_in_grid);""",
    )


def _padded(x: mx.array) -> mx.array:
    """`x`, with a longer last axis if it is too small for a `device` pointer."""
    if x.size >= MIN_ELEMENTS:
        return x
    return mx.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, MIN_ELEMENTS)])


def twin(q, k, v, scale, mask=None, sinks=None, first=0) -> mx.array:
    """The same by MLX's own attention, in float32 throughout; see Kernel."""
    q, k, v = (x.astype(mx.float32) for x in (q, k, v))
    if isinstance(mask, mx.array):
        mask = mask.reshape(mask.shape[-2:])
    if sinks is not None:
        sinks = sinks.astype(mx.float32)
    return mx.fast.scaled_dot_product_attention(
        q, k, v, scale=scale, mask=mask, sinks=sinks, stream=mx.cpu
    )


# The unit roundoff of each dtype. The sum of n random roundings of size 1 is below
# SPREAD * sqrt(n) with probability 1 - 1e-7 (Higham and Mary, 2019).
ROUNDOFF = {mx.float32: 2**-24, mx.float16: 2**-11, mx.bfloat16: 2**-8}
SPREAD = 5.0


def tolerance(q, k, v, scale, mask=None, sinks=None, first=0) -> float:
    """The rounding of scores, weights and sums in kernel and twin, and of the result.

    A score has the error of a sum over D and of its scaling. A weight has the error of
    its score and 4 units for the exponential. The sums over N, of weighted values and
    of weights, add their own. The result is rounded once to its dtype.
    """

    def norm(x: mx.array) -> float:
        return mx.linalg.norm(x.astype(mx.float32), axis=-1).max().item()

    score = scale * norm(q) * norm(k)
    weight = score * (SPREAD * sqrt(q.shape[-1]) + 2) + 4
    relative = 2 * (weight + SPREAD * sqrt(k.shape[2])) * ROUNDOFF[mx.float32]
    result = mx.abs(twin(q, k, v, scale, mask, sinks, first)).max().item()
    largest = mx.abs(v.astype(mx.float32)).max().item()
    return 2 * relative * largest + ROUNDOFF[q.dtype] * result


def refusal(q, k, v, scale, mask=None, sinks=None, first=0) -> str:
    """Why `launch` cannot run a case, as a predicate; "" if it can."""
    if not all(isinstance(x, mx.array) and x.ndim == 4 for x in (q, k, v)):
        return "needs queries, keys and values as arrays [1, heads, rows, D]"
    if q.dtype not in DTYPES or not q.dtype == k.dtype == v.dtype:
        return f"does not support the dtypes {q.dtype}, {k.dtype}, {v.dtype}"
    if not q.shape[0] == k.shape[0] == 1 or k.shape != v.shape:
        return f"does not support the shapes {q.shape}, {k.shape}, {v.shape}"
    heads, rows, dim = q.shape[1:]
    kv_heads, length = k.shape[1:3]
    if dim != k.shape[3] or dim not in HEAD_DIMS:
        return f"does not support heads of {dim}"
    if not kv_heads or not heads or heads % kv_heads:
        return f"does not support {heads} query heads on {kv_heads} KV heads"
    if not 1 <= rows <= MAX_ROWS:
        return f"needs 1 to {MAX_ROWS} rows, not {rows}"
    if not length or not 0 <= first <= MAX_KEYS - length:
        return f"does not support {length} keys from position {first}"
    if not 0 < scale < inf:
        return f"needs a positive scale, not {scale}"
    return _mask_refusal(mask, rows, length) or _sinks_refusal(sinks, heads)


def _mask_refusal(mask: Mask, rows: int, length: int) -> str:
    if mask is None:
        return ""
    if isinstance(mask, str):
        ok = mask == "causal" and rows <= length
        return "" if ok else f"does not support the mask {mask!r}"
    if mask.dtype != mx.bool_:
        return f"needs a boolean mask, not {mask.dtype}"
    shapes = (rows, length), (1, 1, rows, length)
    return "" if mask.shape in shapes else f"does not support a mask of {mask.shape}"


def _sinks_refusal(sinks: mx.array | None, heads: int) -> str:
    if sinks is None or (sinks.shape == (heads,) and sinks.dtype in DTYPES):
        return ""
    return f"does not support sinks of {sinks.shape} in {sinks.dtype}"


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
    """Make a random case whose keys and values are views of a longer cache.

    Args:
        heads: Query heads.
        kv_heads: Heads of keys and values.
        rows: Rows of the block.
        length: Keys.
        dim: Head size.
        dtype: Dtype of all arrays.
        mask: None, "causal", or the number of keys in a causal window.
        sinks: Whether there are sinks.
        first: Absolute position of key 0.
    """
    keys = iter(mx.random.split(mx.random.key(length * 17 + rows), 4))

    def normal(*shape: int) -> mx.array:
        return mx.random.normal(shape, key=next(keys)).astype(dtype)

    if isinstance(mask, int):
        offset = mx.arange(length) - mx.arange(length - rows, length)[:, None]
        mask = (offset <= 0) & (offset > -mask)
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
    """Every head size and dtype, tile and chunk borders, 1 to 16 heads per KV head."""
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


KERNEL = Kernel(NAME, SOURCES, launch, twin, cases, tolerance, refusal)
