"""The gated delta rule over a block in one launch, and the state after any of its rows.

Owns grid, template and the order of sums. The order is the same as in the kernel that
mlx-lm would run, which loops over rows, so the bits of a row do not depend on the rows
after it. Besides y and the last state, a launch returns a tape: each row's innovation
delta = (v - k.S) beta. From the tape and the state before the block, the state after
any row follows by products and sums alone, without q, v and reductions. Knows no layer
and no cache.

Source: arXiv 2412.06464, equation 10; with a gate per element, arXiv 2510.26692.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt

import mlx.core as mx
from mlx_lm.models import gated_delta

from .kernel import Case, Kernel, compiled

FLOATS = (mx.float32, mx.float16, mx.bfloat16)
# The largest relative error of one operation that rounds to nearest.
ROUNDOFF = {mx.float32: 2.0**-24, mx.float16: 2.0**-11, mx.bfloat16: 2.0**-8}
# Rows of the state per lane, if a lane holds few elements of each.
STATE_ROWS = 4
SIMDGROUPS = 4
MAX_ELEMENTS = 2**31


def chains_per_lane(v: mx.array, g: mx.array, key_dim: int) -> int:
    """The number of a sum's 32 chains that a lane holds.

    8 where mlx-lm runs its packed kernel, which adds neighbouring chains first; 1 where
    it runs the kernel that adds chains by simd_sum.
    """
    packed = g.ndim == 3 and g.dtype == mx.float32
    return 8 if packed and key_dim == 128 and v.shape[-1] % 8 == 0 else 1


def gated_delta_block(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    g: mx.array,
    beta: mx.array,
    state: mx.array,
    chains: int | None = None,
) -> tuple[mx.array, mx.array, mx.array]:
    """Apply the rule to the rows of a block.

    Args:
        q, k: [B, T, Hk, Dk], Dk a multiple of 32, of at most 256.
        v: [B, T, Hv, Dv], Hv a multiple of Hk.
        g: Gates [B, T, Hv] or [B, T, Hv, Dk].
        beta: [B, T, Hv].
        state: [B, Hv, Dv, Dk], float32.
        chains: See `chains_per_lane`; 1, 4 or 8.

    Returns:
        y [B, T, Hv, Dv] in q's dtype, the state after the last row, and each row's
        delta [B, T, Hv, Dv] in float32.
    """
    (batch, _, heads, height), width = v.shape, k.shape[3]
    chains = chains or chains_per_lane(v, g, width)
    rows = STATE_ROWS if chains == 1 else 1
    run = compiled(
        ("gated_delta_block",),
        "gated_delta_block",
        ("q", "k", "v", "g", "beta", "state"),
        ("y", "last", "tape"),
        "gated_delta_block<Dk, Chains, Rows, Vector>(q, k, v, g, beta, state, y, last, "
        "tape, k_shape, v_shape, thread_position_in_grid);",
    )
    return tuple(
        run(
            inputs=[q, k, v, g, beta, state],
            template=[
                ("Dk", width),
                ("Chains", chains),
                ("Rows", rows),
                ("Vector", g.ndim == 4),
            ],
            grid=(32, -(-height // (chains * rows)), batch * heads),
            threadgroup=(32, SIMDGROUPS, 1),
            output_shapes=[v.shape, state.shape, v.shape],
            output_dtypes=[q.dtype, mx.float32, mx.float32],
        )
    )


def gated_delta_rewind(
    state: mx.array, k: mx.array, g: mx.array, delta: mx.array, keep: int | mx.array
) -> mx.array:
    """The state after the first rows of a block, bit for bit as from a launch on these
    rows alone.

    Args:
        state: The state before the block, [B, Hv, Dv, Dk] in float32.
        k, g: The block's keys and gates.
        delta: The third result of `gated_delta_block`.
        keep: The number of rows, from 0 to T: an int, or an int32 array of shape ().
    """
    (batch, _, heads, height), width = delta.shape, k.shape[3]
    run = compiled(
        ("gated_delta_block",),
        "gated_delta_rewind",
        ("state", "k", "g", "tape", "keep"),
        ("last",),
        "gated_delta_rewind<Rows, Vector>(state, k, g, tape, keep, last, k_shape, "
        "tape_shape, thread_position_in_grid);",
    )
    (last,) = run(
        inputs=[state, k, g, delta, keep],
        template=[("Rows", STATE_ROWS), ("Vector", g.ndim == 4)],
        grid=(width, -(-height // STATE_ROWS), batch * heads),
        threadgroup=(32, 2 * SIMDGROUPS, 1),
        output_shapes=[state.shape],
        output_dtypes=[mx.float32],
    )
    return last


def block_refusal(
    q: mx.array, k: mx.array, v: mx.array, g: mx.array, beta: mx.array, state: mx.array
) -> str:
    """Why `gated_delta_block` cannot run a case, as a predicate; "" if it can."""
    if q.shape != k.shape:
        return "needs q and k of one shape"
    if not {q.dtype, v.dtype, beta.dtype} <= {*FLOATS}:
        return f"does not support the dtypes {q.dtype}, {v.dtype}, {beta.dtype}"
    if k.ndim == 4 and (k.shape[3] % 32 or not 32 <= k.shape[3] <= 256):
        return f"does not support heads of {k.shape[3]}"
    if v.ndim != 4 or beta.shape != v.shape[:3]:
        return "needs v and beta with equal numbers of rows and heads"
    return rewind_refusal(state, k, g, v)


def rewind_refusal(
    state: mx.array,
    k: mx.array,
    g: mx.array,
    delta: mx.array,
    keep: int | mx.array = 0,
) -> str:
    """Why `gated_delta_rewind` cannot run a case, as a predicate; "" if it can."""
    if state.dtype != mx.float32:
        return f"needs a state in float32, not {state.dtype}"
    if not {k.dtype, g.dtype} <= {*FLOATS}:
        return f"does not support the dtypes {k.dtype}, {g.dtype}"
    if k.ndim != 4 or delta.ndim != 4 or k.shape[:2] != delta.shape[:2]:
        return "needs k and v with equal numbers of rows"
    if 0 in k.shape or 0 in delta.shape:
        return "needs at least one row"
    (batch, _, heads, height), width = delta.shape, k.shape[3]
    if heads % k.shape[2]:
        return f"cannot share {k.shape[2]} key heads among {heads} value heads"
    if g.shape not in (delta.shape[:3], (*delta.shape[:3], width)):
        return "needs gates per head or per element of a key"
    if state.shape != (batch, heads, height, width):
        return "needs a state [B, Hv, Dv, Dk]"
    if max(state.size, k.size, g.size, delta.size) >= MAX_ELEMENTS:
        return "does not support arrays of 2^31 elements or more"
    # A scalar is passed by value, anything else as an array.
    if isinstance(keep, mx.array) and (keep.ndim or keep.dtype != mx.int32):
        return "needs a single number of rows"
    return ""


def _per_value_head(x: mx.array, heads: int) -> mx.array:
    """Keys or queries [B, Hk, Dk] in float32, repeated to [B, Hv, 1, Dk]."""
    return mx.repeat(x.astype(mx.float32), heads // x.shape[1], 1)[..., None, :]


def _decayed(state: mx.array, g: mx.array) -> mx.array:
    """A state times the gates [B, Hv] or [B, Hv, Dk] of a row."""
    return state * (g[..., None, None] if g.ndim == 2 else g[..., None, :])


def _rows(q, k, v, g, beta, state) -> Iterator[tuple[mx.array, mx.array, mx.array]]:
    """Yield y [B, Hv, Dv], the state and delta of each row, by stock operations."""
    for t in range(k.shape[1]):
        decayed = _decayed(state, g[:, t])
        memory = (decayed * _per_value_head(k[:, t], v.shape[2])).sum(-1)
        delta = (v[:, t] - memory) * beta[:, t, :, None]
        block = (x[:, t : t + 1] for x in (q, k, v, g, beta))
        y, state = gated_delta.gated_delta_ops(*block, state)
        yield y[:, 0], state, delta


def block_twin(q, k, v, g, beta, state) -> tuple[mx.array, mx.array, mx.array]:
    """`gated_delta_block` by mlx-lm's plain operations."""
    ys, states, deltas = zip(*_rows(q, k, v, g, beta, state), strict=True)
    return mx.stack(ys, 1), states[-1], mx.stack(deltas, 1).astype(mx.float32)


def rewind_twin(state, k, g, delta, keep) -> mx.array:
    """`gated_delta_rewind` by plain operations."""
    for t in range(int(keep)):
        update = delta[:, t, :, :, None] * _per_value_head(k[:, t], delta.shape[2])
        state = _decayed(state, g[:, t]) + update
    return state


def block_bounds(q, k, v, g, beta, state) -> tuple[float, float, float]:
    """The largest differences of y, state and delta from the twin's that rounding
    explains.

    With g <= 1, beta <= 2 and |k| <= 1, a row of the rule does not enlarge an error of
    the state, and the errors that T rows add combine as the root of T. A row adds the
    errors of six operations on numbers up to |S| + |v|, and of a sum. The error of a
    sum of numbers around 0 is a few roundings of |S| |k|, whatever their number (Higham
    and Mary, Sharper Probabilistic Backward Error Analysis, 2020); four are allowed
    here. All of this counts twice, because kernel and twin both round.
    """
    u = ROUNDOFF[mx.float32]
    rows = list(_rows(q, k, v, g, beta, state))
    states = mx.stack([state, *(after for _, after, _ in rows)])
    size = mx.linalg.norm(states, axis=-1).max().item() + mx.abs(v).max().item()
    per_row = 2 * u * (4 + 6) * size * max(1.0, beta.max().item())
    block = per_row * sqrt(k.shape[1])
    longest_q = mx.linalg.norm(q.astype(mx.float32), axis=-1).max().item()
    largest_y = max(mx.abs(y).max().item() for y, _, _ in rows)
    y_bound = (block + per_row) * longest_q + 2 * ROUNDOFF[q.dtype] * largest_y
    return y_bound, block, block + per_row


def block_tolerance(**case: mx.array) -> float:
    """The largest of `block_bounds`."""
    return max(block_bounds(**case))


def rewind_tolerance(state, k, g, delta, keep) -> float:
    """Three roundings per row of numbers up to |S| + |k delta|, in kernel and twin."""
    largest = mx.abs(state).max().item()
    update = (mx.abs(delta).max() * mx.abs(k).max()).item()
    rows = int(keep)
    return 2 * 3 * ROUNDOFF[mx.float32] * rows * (largest + rows * update)


def sample(
    rows: int,
    heads: tuple[int, int],
    dims: tuple[int, int],
    dtype: mx.Dtype = mx.float32,
    vector: bool = False,
    batch: int = 1,
) -> Case:
    """Make a random block with the distributions that a layer produces.

    Args:
        rows: T.
        heads: Hk and Hv.
        dims: Dk and Dv.
        dtype: The dtype of q, k, v and beta.
        vector: Whether there is a gate per element of a key.
        batch: B.
    """
    keys = iter(mx.random.split(mx.random.key(rows), 6))

    def normal(*shape):
        return mx.random.normal(shape, key=next(keys))

    q, k = (normal(batch, rows, heads[0], dims[0]) for _ in range(2))
    q, k = gated_delta.normalize_qk(q, k, inv_scale=dims[0] ** -0.5, eps=1e-6)
    gates = (batch, rows, heads[1], dims[0])[: 4 if vector else 3]
    return {
        "q": q.astype(dtype),
        "k": k.astype(dtype),
        "v": normal(batch, rows, heads[1], dims[1]).astype(dtype),
        "g": mx.exp(-0.3 * mx.abs(normal(*gates))),
        "beta": mx.sigmoid(normal(batch, rows, heads[1])).astype(dtype),
        "state": 0.3 * normal(batch, heads[1], dims[1], dims[0]),
    }


def sample_like(case: Case, rows: int) -> Case:
    """A random block of `rows` rows, otherwise with the shapes and dtypes of `case`."""
    (batch, _, *key), (_, _, *value) = case["k"].shape, case["v"].shape
    heads, dims = zip(key, value, strict=True)
    return sample(rows, heads, dims, case["q"].dtype, case["g"].ndim == 4, batch)


def block_cases() -> Iterator[Case]:
    """Blocks of one row and of several, partly filled tiles, every order of sums."""
    yield sample(1, (1, 1), (64, 8))
    yield sample(2, (1, 3), (64, 10), mx.float16)
    yield sample(5, (2, 4), (128, 24), mx.bfloat16)
    yield sample(16, (2, 2), (128, 40), mx.bfloat16)
    yield sample(7, (1, 2), (128, 13), mx.float16)
    yield sample(3, (2, 2), (96, 17), mx.bfloat16, vector=True)
    yield sample(16, (1, 2), (128, 20), mx.bfloat16, vector=True)
    yield sample(11, (1, 2), (256, 9), mx.float16, batch=2)
    yield sample(16, (1, 1), (256, 64), vector=True)


def rewind_cases() -> Iterator[Case]:
    """The tapes of `block_cases`, with no row, some rows or all rows kept."""
    for number, case in enumerate(block_cases()):
        rows = case["k"].shape[1]
        tape = {name: case[name] for name in ("state", "k", "g")}
        tape["delta"] = block_twin(**case)[2]
        yield tape | {"keep": (rows, rows // 2, rows - 1, 0)[number % 4]}


BLOCK = Kernel(
    "gated_delta_block",
    ("gated_delta_block",),
    gated_delta_block,
    block_twin,
    block_cases,
    block_tolerance,
    block_refusal,
)
REWIND = Kernel(
    "gated_delta_rewind",
    ("gated_delta_block",),
    gated_delta_rewind,
    rewind_twin,
    rewind_cases,
    rewind_tolerance,
    rewind_refusal,
)
KERNELS = (BLOCK, REWIND)
