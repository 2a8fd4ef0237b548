"""The graph of a draft: nothing in it but the cache grows with the context."""

import mlx.core as mx
import pytest

from dflash_mlx.cache.context import ContextCache
from dflash_mlx.models.drafters import layers
from dflash_mlx.models.drafters.fields import GEMMA
from tests.equipment.tiny import VOCAB, forward_block, greedy, make_drafter
from tests.models.drafters.test_dflash2 import make_dflash2
from tests.models.drafters.test_dspark import make_dspark

LONG = 700
# A write into the cache's buffer, and views of it.
VIEWS = {"Slice", "SliceUpdate", "DynamicSliceUpdate"}
DRAFTERS = {
    "full": lambda: make_drafter(),
    "causal": lambda: make_drafter(is_causal=True),
    "sliding": lambda: make_drafter(
        layer_types=("sliding_attention",) * 2, sliding_window=13
    ),
    "anchored": lambda: make_drafter(
        layer_types=("sliding_attention",) * 2,
        sliding_window=13,
        window_from_anchor=True,
    ),
    "limited": lambda: make_drafter(window=40),
    "sinks": lambda: make_drafter(attention_sink_bias=True),
    "gates": lambda: make_drafter(attention_gate="per-head"),
    "gemma": lambda: make_drafter(model_type=GEMMA, attention_k_eq_v=True),
    "dflash2": lambda: make_dflash2(),
    "dspark": lambda: make_dspark(),
}
# A context at which a copy of it is much larger than the scores of a block.
FAR, HEAD = 32_000, {"num_attention_heads": 2, "head_dim": 64}


def bound(drafter):
    embed = mx.random.normal((VOCAB, 64), key=mx.random.key(4))
    drafter.bind(lambda ids: embed[ids], lambda h: h @ embed.T)
    return drafter


def features(rows):
    return mx.random.normal((1, rows, 128), key=mx.random.key(rows))


@pytest.mark.parametrize("kind", DRAFTERS)
def test_no_array_of_a_draft_grows_with_the_context_but_the_caches(kind, monkeypatch):
    """On Metal a buffer that is larger each time fits none that was freed before, so
    the freed ones pile up."""
    drafter, seen = bound(DRAFTERS[kind]()), []

    def attend(queries, keys, values, mask, **_):
        seen.append((keys.shape[2], mask))
        return queries + 0 * (keys[..., -1:, :] + values[..., -1:, :]).sum(1)

    # MLX's own attention makes its scores on the CPU only.
    monkeypatch.setattr(layers, "scaled_dot_product_attention", attend)
    cache = drafter.make_cache()
    drafter.extend(features(LONG), cache)
    mx.eval([entry.arrays() for entry in cache])
    events = []

    def draft(anchor):
        return drafter.propose(anchor, cache, 8, greedy)

    mx.export_function(events.append, draft, mx.array([5], mx.uint32))
    grown = {
        event["name"]
        for event in events
        if event["type"] == "primitive"
        for _, shape, _ in event["outputs"]
        if max(shape, default=0) >= LONG
    }
    assert grown <= VIEWS, grown
    window, block = drafter.window, drafter.block_rows(8)
    assert {rows for rows, _ in seen} == {(window or LONG) + block}


@pytest.mark.parametrize("kind", DRAFTERS)
def test_drafts_are_those_of_a_copied_context(kind, monkeypatch):
    """Bit for bit, with the buffer full, nearly full, and grown in between."""
    drafter = bound(DRAFTERS[kind]())

    def copied(entry, keys, values):
        context = entry.fetch()
        if context is None:
            return keys, values
        parts = zip(context, (keys, values), strict=True)
        return tuple(mx.concatenate(part, axis=2) for part in parts)

    def hidden(follow):
        found, cache = [], drafter.make_cache()
        with monkeypatch.context() as patch:
            patch.setattr(ContextCache, "followed_by", follow)
            for rows in (0, 3, 240, 5, 8, 1, 255, 9):
                if rows:
                    drafter.extend(features(rows), cache)
                for width in (8, 3):
                    anchor = mx.array([rows % VOCAB], mx.uint32)
                    found.append(forward_block(drafter, anchor, cache, width))
        return found, [entry.fetch()[0] for entry in cache]

    ours, our_context = hidden(ContextCache.followed_by)
    theirs, their_context = hidden(copied)
    for pair in zip(ours + our_context, theirs + their_context, strict=True):
        assert mx.array_equal(*pair)


def test_a_block_leaves_no_rows_behind():
    cache = ContextCache()
    rows = [mx.full((1, 2, n, 4), n) for n in (5, 3, 2)]
    cache.append(rows[0], rows[0])
    keys, _ = cache.followed_by(rows[1], rows[1])
    assert keys[0, 0, :, 0].tolist() == [5] * 5 + [3] * 3
    assert cache.offset == 5 and cache.fetch()[0].shape[2] == 5
    assert cache.read().arrays[0].shape[2] == cache.seen(5) == 5
    cache.append(rows[2], rows[2])
    assert cache.fetch()[0][0, 0, :, 0].tolist() == [5] * 5 + [2] * 2
    assert cache.positions().tolist() == list(range(7))


def draft_bytes(drafter, cache, width):
    """Most bytes above the resting state during one draft."""
    mx.reset_peak_memory()
    resting = mx.get_active_memory()
    mx.eval(drafter.propose(mx.array([5], mx.uint32), cache, width, greedy))
    return mx.get_peak_memory() - resting


def commit(drafter, cache, rows):
    drafter.extend(features(rows), cache)
    mx.eval([entry.arrays() for entry in cache])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ("full", "causal", "sinks", "gemma", "dspark"))
def test_a_draft_allocates_scores_and_no_context(kind, monkeypatch):
    changes = {"full": {}, "causal": {"is_causal": True}, "dspark": {}}
    changes |= {"sinks": {"attention_sink_bias": True}, "gemma": {"model_type": GEMMA}}
    make = make_dspark if kind == "dspark" else make_drafter
    drafter = bound(make(**HEAD, **changes[kind]))
    cache, width = drafter.make_cache(), drafter.block_rows(4)
    commit(drafter, cache, FAR)
    draft_bytes(drafter, cache, 4)
    scores = 2 * width * FAR * 4
    keys_values = 2 * FAR * 2 * 64 * 4
    assert draft_bytes(drafter, cache, 4) < 3.5 * scores < keys_values / 2


@pytest.mark.slow
@pytest.mark.parametrize("window", (None, 2048))
def test_memory_is_flat_over_1000_rounds_far_into_a_text(window):
    """That which a draft holds, and that which it leaves to MLX's cache of freed
    buffers: scores, and nothing else that grows with the context. The context itself
    grows by 256 rows at a time."""
    sizes = HEAD | {"head_dim": 16, "num_hidden_layers": 1}
    drafter = bound(make_drafter(window=window, **sizes))
    cache = drafter.make_cache()
    commit(drafter, cache, FAR)
    drafts, resting, freed = [], [], []
    for _ in range(1000):
        commit(drafter, cache, 1)
        mx.clear_cache()
        drafts.append(draft_bytes(drafter, cache, 2))
        rows = sum(a.nbytes for entry in cache for a in entry.arrays())
        resting.append(mx.get_active_memory() - rows)
        freed.append(mx.get_cache_memory())
    seen = window or FAR + 1000
    scores, context = 2 * 2 * seen * 4, 2 * seen * 2 * 16 * 4
    most = 3.5 * scores + 2**16
    assert most < context / 2
    for sizes in (drafts, freed):
        grown = [i for i, size in enumerate(sizes) if size > most]
        assert len(grown) <= 1000 // 256 + 1, grown
    assert max(resting) - min(resting) < 2**16
