"""Attention of many blocks over a shared context, compared with MLX's own."""

import mlx.core as mx
import pytest

from dflash_mlx.models.drafters.training_attention import Sight, attend
from dflash_mlx.train.objective import block_sight

N, M, B, S, KV, GROUP, SIZE = 2, 3, 4, 20, 2, 3, 8


def random_arrays():
    key, heads = mx.random.split(mx.random.key(0), 5), KV * GROUP
    shapes = [
        (N * M, heads, B, SIZE),
        (N * M, KV, B, SIZE),
        (N * M, KV, B, SIZE),
        (N, KV, S, SIZE),
        (N, KV, S, SIZE),
    ]
    return [mx.random.normal(s, key=k) for s, k in zip(shapes, key, strict=True)]


def joined(queries, keys, values, far_keys, far_values, sight, scale, sinks=None):
    """Each block alone, its context and its rows joined to one array."""
    found = []
    for i in range(N * M):
        n, m = divmod(i, M)
        k = mx.concatenate([far_keys[n], keys[i]], axis=1)[None]
        v = mx.concatenate([far_values[n], values[i]], axis=1)[None]
        own = mx.tri(B) > 0 if sight.causal else mx.ones((B, B), mx.bool_)
        seen = mx.broadcast_to(sight.context[n, m], (B, S))
        mask = mx.concatenate([seen, own], axis=1)
        found.append(
            mx.fast.scaled_dot_product_attention(
                queries[i : i + 1], k, v, scale=scale, mask=mask, sinks=sinks
            )
        )
    return mx.concatenate(found)


@pytest.mark.parametrize("sinks", (None, mx.array([0.5, -9.0, 40.0, 0.0, 1.0, 2.0])))
@pytest.mark.parametrize("causal", (False, True))
@pytest.mark.parametrize("window", (None, 5))
def test_outputs_and_gradients_are_those_of_joined_arrays(window, causal, sinks):
    anchors = mx.array([[0, 7, 19], [3, 3, 12]])
    sight = block_sight(anchors, B, S, window, causal=causal)
    weights = mx.random.normal((N * M, KV * GROUP, B, SIZE), key=mx.random.key(9))

    def ours(queries, keys, values, far_keys, far_values):
        far = far_keys, far_values
        return attend(queries, keys, values, far, sight, 0.3, sinks)

    def theirs(*arrays):
        return joined(*arrays, sight, 0.3, sinks)

    arrays, places = random_arrays(), list(range(5))
    assert mx.allclose(ours(*arrays), theirs(*arrays), atol=1e-6).item()
    found, wanted = (
        mx.grad(lambda *a, f=f: (f(*a) * weights).sum(), places)(*arrays)
        for f in (ours, theirs)
    )
    for ours_of, theirs_of in zip(found, wanted, strict=True):
        assert mx.allclose(ours_of, theirs_of, atol=1e-6).item()
        assert mx.abs(theirs_of).max().item() > 0.01


def test_sinks_get_a_gradient():
    arrays, sinks = random_arrays(), mx.zeros((KV * GROUP,))
    sight = block_sight(mx.array([[1, 2, 3]] * N), B, S)

    def total(f, sinks):
        return f(sinks).sum()

    def ours(sinks):
        return attend(*arrays[:3], tuple(arrays[3:]), sight, 0.3, sinks)

    found = mx.grad(lambda s: total(ours, s))(sinks)
    wanted = mx.grad(lambda s: total(lambda s: joined(*arrays, sight, 0.3, s), s))(
        sinks
    )
    assert mx.allclose(found, wanted, atol=1e-5).item()


def test_no_array_joins_the_context_with_the_blocks():
    """Nor has a row a score for each row of all blocks."""
    arrays, events = random_arrays(), []
    sight = Sight(mx.ones((N, M, 1, S), mx.bool_), True)

    def forward(queries):
        return attend(queries, *arrays[1:3], tuple(arrays[3:]), sight, 1.0)

    mx.export_function(events.append, forward, arrays[0])
    sizes = {
        size
        for event in events
        if event["type"] == "primitive"
        for _, shape, _ in event["outputs"]
        for size in shape
    }
    assert sizes and not sizes & {S + B, S + M * B}
