"""Snapshots between prompts: when they are taken, restored and dropped."""

import random

import mlx.core as mx
import pytest
from mlx_lm.models.cache import KVCache, QuantizedKVCache

from benchmarks.examine import MAX_DIFFERENCE, cache_difference, greedy
from dflash_mlx import (
    Pair,
    PromptCache,
    decode,
    device,
    stream_generate,
)
from dflash_mlx.cache.context import ContextCache
from dflash_mlx.cache.file import load as load_file
from dflash_mlx.cache.file import save as save_file
from dflash_mlx.cache.kinds import flat
from dflash_mlx.cache.snapshots import Snapshot, default_bytes, take_snapshot
from dflash_mlx.cache.state import put_back, read
from dflash_mlx.errors import OptionError
from dflash_mlx.models.fingerprint import of_drafter, of_target
from dflash_mlx.models.targets import make_target
from dflash_mlx.text.chat_template import apply_template, marks
from dflash_mlx.types import KVBits
from tests.equipment import architectures
from tests.equipment.full import thinned
from tests.equipment.scripted import Script
from tests.equipment.tiny import (
    make_drafter,
    make_model,
    reference,
    run,
    some_prompt,
)
from tests.equipment.turns import TEMPLATES, make_tokenizer

# Their caches cannot be cut back: windows, states, and states beside rows.
FAMILIES = ("gemma3_text", "qwen3_next", "falcon_h1")


def snapshot_rows(cache):
    """The number of rows of each snapshot."""
    return [snapshot.rows for snapshot in cache.snapshots.all]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_reset_drops_the_snapshots(family):
    model = architectures.build(family)
    pair, first, second = Pair.of(model), list(range(1, 41)), list(range(31, 71))
    cache = PromptCache(pair)
    run(pair, cache.reuse(first, (20,)), 5, prompt_cache=cache)
    cache.reset()
    run(pair, second, 5, prompt_cache=cache)
    # A snapshot of the first text would lie inside what the last two share.
    edited = second[:25] + [3, 4, 5]
    rest = cache.reuse(edited)
    assert rest == edited
    assert run(pair, rest, 6, prompt_cache=cache) == greedy(model, edited, 6)


def test_a_reset_forgets_that_the_cache_was_quantized():
    pair, tokens = Pair.of(make_model("llama")), some_prompt(50)
    cache = PromptCache(pair)
    run(pair, cache.reuse(tokens), 5, prompt_cache=cache, kv=KVBits(8, 32, 30))
    assert cache.quantized_from == 30
    cache.reset()
    run(pair, tokens, 5, prompt_cache=cache)
    assert len(cache.reuse(tokens[:25] + [1, 2, 3])) == 3


@pytest.mark.parametrize("family", FAMILIES)
def test_an_interrupt_while_a_snapshot_is_restored(family, monkeypatch):
    model, text = architectures.build(family), some_prompt(40)
    pair = Pair.of(model)
    cache = PromptCache(pair)
    run(pair, cache.reuse(text, (20,)), 5, prompt_cache=cache)
    longer = cache.tokens + [3, 4, 5]

    def first_layer(snapshot, target, drafter):
        layers, first = list(flat(target)), min(snapshot.target)
        put_back(layers[first], snapshot.target[first])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Snapshot, "restore", first_layer)
        with pytest.raises(KeyboardInterrupt):
            cache.reuse(text[:25] + [3, 4, 5])
    assert cache.broken
    rest = cache.reuse(longer)
    assert rest == longer[20:] and not cache.broken
    assert run(pair, rest, 6, prompt_cache=cache) == greedy(model, longer, 6)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_prompt_again_takes_no_second_snapshot(family):
    pair, prompt = Pair.of(architectures.build(family)), some_prompt(20)
    cache = PromptCache(pair)
    for _ in range(3):
        run(pair, cache.reuse(prompt, (9,)), 5, prompt_cache=cache)
        assert snapshot_rows(cache) == [9, 19]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_snapshot_at_the_end_of_the_kept_rows(family):
    pair, prompt = Pair.of(architectures.build(family)), some_prompt(20)
    cache = PromptCache(pair)
    run(pair, cache.reuse(prompt), 5, prompt_cache=cache)
    tokens = [*cache.tokens]
    longer = tokens + some_prompt(9, seed=9)
    assert len(cache.reuse(longer, (len(tokens),))) == 9
    run(pair, longer[len(tokens) :], 3, prompt_cache=cache)
    assert snapshot_rows(cache) == [19, len(tokens), len(longer) - 1]
    assert cache.reuse(tokens + [1, 2]) == [1, 2]


def test_an_unknown_kind_of_cache_is_decoded_without_snapshots(monkeypatch):
    class Odd(KVCache):
        """A kind that rollback.py has no rule for."""

    model, prompt = make_model("llama"), some_prompt(20)
    pair = Pair.of(model)
    layers = len(model.layers)
    monkeypatch.setattr(
        pair.target, "make_cache", lambda *_: [Odd() for _ in range(layers)]
    )
    cache = PromptCache(pair)
    for text in (prompt, prompt[:15] + [1, 2]):
        rest = cache.reuse(text, (9,))
        assert rest == text
        assert run(pair, rest, 8, prompt_cache=cache) == reference(model, text, 8)
    assert not cache.snapshots.all


def edited(rng, text):
    """The text itself, a longer, shorter or changed one, or a new one."""
    more = rng.choices(range(1, 95), k=rng.randrange(1, 30))
    start = text[: rng.randrange(1, len(text) + 1)]
    return rng.choice((text, text + more, start, start + more[:8], more))[:100]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "drafting"), thinned(FAMILIES, (True, False), "loop", 2)
)
def test_after_any_edits_caches_equal_those_of_one_pass(family, drafting):
    rng, model = random.Random(f"{family} {drafting}"), architectures.build(family)
    script = Script([], [2, 0, 5, 1, 99], block_size=6)
    pair = Pair.of(model, script if drafting else None)
    cache, text = PromptCache(pair), some_prompt(30)
    for _ in range(25):
        if rng.random() < 0.6:
            text = edited(rng, text)
        wanted = greedy(model, text, 12)
        script.text = text + wanted
        rest = cache.reuse(text, rng.choices(range(len(text) + 3), k=2))
        options = {
            "max_tokens": rng.choice((1, 12)),
            "prefill_step_size": rng.choice((1, 3, 7, 2048)),
            "block_size": rng.choice((1, 3, 6)),  # plain, and two that draft
        }
        rounds, answer = decode(pair, rest, prompt_cache=cache, **options), []
        for round in rounds:
            answer += round.tokens
            if rng.random() < 0.1:
                rounds.close()
        assert answer == wanted[: len(answer)]
        whole = text + answer
        assert cache.tokens == whole[: len(cache.tokens)]
        text = rng.choice((whole, text))  # or the same prompt again
        fresh = pair.target.make_cache()
        pair.target.forward(mx.array([cache.tokens]), fresh)
        assert cache_difference(cache.target, fresh) < MAX_DIFFERENCE
        assert all(entry.offset == len(cache.tokens) for entry in cache.drafter)
        rows = snapshot_rows(cache)
        assert rows == sorted({*rows}) and max(rows, default=0) <= len(cache.tokens)


def test_the_budget_depends_on_the_machine_and_is_not_negative(monkeypatch):
    pair = Pair.of(make_model("llama"))
    for memory, most in ((8, 512 * 2**20), (64, 2**30)):
        monkeypatch.setattr(device, "memory_bytes", lambda n=memory: n * 2**30)
        assert default_bytes() == PromptCache(pair).snapshots.most == most
    with pytest.raises(OptionError, match="snapshot_bytes must be 0 or more"):
        PromptCache(pair, snapshot_bytes=-1)


def context(window, *runs):
    """A drafter's context whose rows contain their positions.

    Args:
        window: Rows that the context keeps, or None.
        runs: (first position, number of rows) each.
    """
    made = ContextCache(window)
    for first, rows in runs:
        made.skip(first - made.offset)
        positions = mx.arange(first, first + rows, dtype=mx.float32)
        made.append(*[positions[None, None, :, None]] * 2)
    return made


def positions_in(entry):
    """The positions of a context, after a check that its rows contain the same."""
    positions = entry.positions().tolist()
    for rows in entry.fetch():
        assert rows.flatten().tolist() == positions
    return positions


def test_the_bytes_of_a_snapshot():
    pair = Pair.of(make_model("llama"), make_drafter(window=10))
    cache = PromptCache(pair)
    run(pair, cache.reuse(some_prompt(20)), 1, prompt_cache=cache)
    (taken,) = cache.snapshots.all
    # Two layers, keys and values of 10 rows, 2 heads and 32 numbers of 4 bytes.
    assert not taken.target and taken.nbytes == 2 * 2 * 10 * 2 * 32 * 4


def test_a_snapshot_fills_only_rows_inside_the_window():
    taken = take_snapshot(10, [], [context(4, (0, 10))])
    ours = context(4, (12, 2))
    taken.fill([ours], 14)
    assert positions_in(ours) == [12, 13]
    ours = context(4, (9, 1))
    taken.fill([ours], 10)
    assert positions_in(ours) == [6, 7, 8, 9]


def test_a_growing_context_changes_no_snapshot_of_it():
    state, entry = context(None, (0, 3)).read(), ContextCache()
    for more in (2, 1, 0):
        entry.put_back(state)
        assert positions_in(entry) == [0, 1, 2]
        if more:
            entry.append(*[mx.zeros((1, 1, more, 1))] * 2)


def test_only_the_window_of_a_context_is_read():
    state = context(4, (0, 10)).read()
    assert state.numbers["runs"] == [[6, 4]] and state.arrays[0].shape[2] == 4
    entry = ContextCache(4)
    entry.put_back(state)
    assert positions_in(entry) == [6, 7, 8, 9] and entry.seen(10) == 4


def test_unused_rows_of_a_quantized_cache_are_not_read():
    entry, rows = QuantizedKVCache(32, 8), mx.ones((1, 2, 10, 32))
    entry.update_and_fetch(rows, rows)
    assert entry.keys[0].shape[2] > 10
    assert [array.shape[2] for array in read(entry).arrays] == [10] * 6


@pytest.mark.parametrize("content", ("Apples?", "A", "Beans?", "B"))
def test_the_first_mark_is_where_the_message_begins(content):
    tokenizer = make_tokenizer(TEMPLATES["stable"])
    chat = [{"role": "user", "content": content}]
    ids = apply_template(tokenizer, chat)
    at, _ = marks(tokenizer, chat)
    assert tokenizer.decode(ids[at:]).startswith(content)


def test_a_template_that_changes_turns_after_the_next_question():
    last = "{% set last = messages|selectattr('role', 'equalto', 'user')|list|last %}"
    turn = "{{ m['content'] }}{% if m == last %}!{% endif %}<|e|>"
    tokenizer = make_tokenizer(
        last + "{% for m in messages %}" + turn + "{% endfor %}<|s|>"
    )
    chat = [{"role": "user", "content": "What?"}]
    ids = apply_template(tokenizer, chat)
    assert tokenizer.decode(ids) == "What?!<|e|><|s|>"
    _, kept = marks(tokenizer, chat)
    assert tokenizer.decode(ids[kept:]) == "!<|e|><|s|>"


def test_a_fingerprint_depends_on_the_config_and_exactness():
    model = make_model("llama")
    target = make_target(model, {"rope_theta": 10000.0})
    ours = of_target(target)
    assert of_target(make_target(model, {"rope_theta": 10000.0})) == ours
    assert of_target(make_target(model, {"rope_theta": 500000.0})) != ours
    target.exact = True
    assert of_target(target) != ours


def test_a_fingerprint_depends_on_the_weights():
    drafter = make_drafter()
    ours = of_drafter(drafter)
    assert of_drafter(make_drafter()) == ours
    weight = drafter.layers[0].mlp.down_proj.weight
    weight[0, 0] = weight[0, 0] + 1
    assert of_drafter(drafter) != ours


def test_a_file_is_written_through_a_symlink(tmp_path):
    pair = Pair.of(make_model("llama"))
    cache, file, link = PromptCache(pair), tmp_path / "away" / "talk", tmp_path / "link"
    file.parent.mkdir()
    link.symlink_to(file)
    for _ in range(2):  # the file is new, then it is replaced
        run(pair, some_prompt(9), 3, prompt_cache=cache)
        save_file(cache, link)
        assert link.is_symlink() and not file.is_symlink()
        assert load_file(file, pair).tokens == cache.tokens
    assert list(file.parent.iterdir()) == [file]


def test_a_file_is_read_within_the_budget(tmp_path):
    pair, prompt = Pair.of(architectures.build("qwen3_next")), some_prompt(20)
    cache = PromptCache(pair)
    run(pair, cache.reuse(prompt, (9,)), 3, prompt_cache=cache)
    save_file(cache, tmp_path / "file")
    one = cache.snapshots.all[0].nbytes
    for budget, rows in ((0, []), (one, [19]), (None, [9, 19])):
        again = load_file(tmp_path / "file", pair, snapshot_bytes=budget)
        assert snapshot_rows(again) == rows
        assert budget is None or again.snapshots.most == budget


@pytest.mark.slow
@pytest.mark.parametrize("family", ("qwen3", *FAMILIES))
def test_a_stream_closed_inside_a_round_leaves_what_was_yielded(family):
    model, prompt = architectures.build(family), some_prompt(40)
    tokenizer = make_tokenizer(TEMPLATES["stable"])
    pair = Pair.of(model)
    plain = stream_generate(pair, tokenizer, prompt, max_tokens=14)
    wanted = [response.token for response in plain]
    for seen in range(1, 14):
        pair = Pair.of(model, Script(prompt + wanted, [5, 2], block_size=6))
        cache = PromptCache(pair)
        stream = stream_generate(
            pair, tokenizer, prompt, prompt_cache=cache, block_size=6
        )
        assert [next(stream).token for _ in range(seen)] == wanted[:seen]
        stream.close()
        assert not cache.broken and cache.text == prompt + wanted[:seen]
        assert cache.rows == len(cache.text) - 1
        fresh = pair.target.make_cache()
        pair.target.forward(mx.array([cache.tokens]), fresh)
        assert cache_difference(cache.target, fresh) < MAX_DIFFERENCE
        assert all(entry.offset == cache.rows for entry in cache.drafter)
        rest = stream_generate(pair, tokenizer, [], prompt_cache=cache)
        more = [r.token for r, _ in zip(rest, wanted[seen:], strict=False)]
        assert wanted[:seen] + more == wanted


@pytest.mark.slow
@pytest.mark.parametrize(("seen", "rows"), [(1, 40), (2, 0), (3, 43), (4, 43), (5, 44)])
def test_a_stream_closed_inside_the_round_that_quantized(seen, rows):
    """A new cache of fewer rows would be exact, so they are passed again."""
    model, prompt = make_model("llama"), some_prompt(40)
    kv = {"kv_bits": 8, "kv_group_size": 32, "quantized_kv_start": 43}
    tokenizer = make_tokenizer(TEMPLATES["stable"])
    plain = stream_generate(Pair.of(model), tokenizer, prompt, max_tokens=9, **kv)
    wanted = [response.token for response in plain]
    pair = Pair.of(model, Script(prompt + wanted, [5], block_size=6))
    cache = PromptCache(pair)
    stream = stream_generate(
        pair, tokenizer, prompt, prompt_cache=cache, block_size=6, **kv
    )
    assert [next(stream).token for _ in range(seen)] == wanted[:seen]
    stream.close()
    assert cache.text == prompt + wanted[:seen] and cache.rows == rows
    assert (cache.quantized_from is None) == (rows < 43)
