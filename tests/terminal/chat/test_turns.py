"""Turns of a chat: only new rows are prefilled, and answers equal a fresh run's."""

import sys

import mlx.core as mx
import pytest
from mlx_lm.models.cache import ArraysCache, ChunkedKVCache, RotatingKVCache

from benchmarks import first_token
from benchmarks.examine import describe_caches, greedy
from dflash_mlx import (
    Pair,
    PromptCache,
    decode,
    load,
)
from dflash_mlx.cache.context import ContextCache
from dflash_mlx.cache.kinds import BoundedKVCache, OrderedKVCache
from dflash_mlx.cache.snapshots import Snapshot, SnapshotStore, take_snapshot
from dflash_mlx.cache.state import State
from dflash_mlx.errors import OptionError, PromptError
from dflash_mlx.terminal.thinking import Thinking
from dflash_mlx.text.chat_template import apply_template, marks, stable_prefix
from dflash_mlx.types import KVBits
from tests.cache.test_accidents import interrupt
from tests.decoding import test_interrupts
from tests.decoding.test_interrupts import ROOT, Interrupt
from tests.equipment import architectures
from tests.equipment.full import thinned
from tests.equipment.scripted import Script
from tests.equipment.tiny import (
    make_drafter,
    make_model,
    run,
    some_prompt,
)
from tests.equipment.turns import (
    ANSWER,
    TEMPLATES,
    CheckedChat,
    make_tokenizer,
)

# Their layers keep every row; windows; states and rows; chunks.
FAMILIES = ("qwen3", "gemma3_text", "qwen3_next", "llama4")
PLANS = {"plain": None, "right": [99], "wrong": [0], "mixed": [2, 0, 5, 1, 99]}


TALKS = [(template, plan) for template in TEMPLATES for plan in PLANS]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "talk"), thinned(FAMILIES, TALKS, "chat", 4))
def test_only_new_rows_are_prefilled(family, talk):
    template, plan = talk
    chat = CheckedChat(family, template, PLANS[plan])
    counts = []
    for question in ("What-is-this?", "Where-did-you-find-it?", "Tell-more."):
        counts.append(chat.send(question))
    # /retry
    chat.messages.pop()
    counts.append(chat.answer())
    assert counts[-1][0] == 1
    # /undo, and another question
    del chat.messages[-2:]
    counts.append(chat.send("And-why?"))
    # /edit of the second question
    del chat.messages[2:]
    counts.append(chat.send("Thanks."))
    counts.append(chat.send("Bye."))
    assert [passed for passed, _ in counts] == [new for _, new in counts]


@pytest.mark.slow
@pytest.mark.parametrize("family", ("gemma3_text", "qwen3_next"))
def test_without_a_budget_answers_are_right_and_nothing_is_kept(family):
    chat = CheckedChat(family, "thinking", [2, 0, 5], snapshot_bytes=0)
    chat.send("What-is-this?")
    chat.messages.append({"role": "user", "content": "Where-did-you-find-it?"})
    whole = len(chat.prompt()[0])
    passed, new = chat.answer()
    assert passed == whole > new
    assert not chat.cache.snapshots.all


@pytest.mark.slow
def test_a_small_budget_keeps_the_newest():
    chat = CheckedChat("qwen3_next", "thinking", [99])
    for question in ("What-is-this?", "Where?", "Tell-more."):
        chat.send(question)
    one = chat.cache.snapshots.all[-1].nbytes
    small = CheckedChat("qwen3_next", "thinking", [99], snapshot_bytes=2 * one)
    for question in ("What-is-this?", "Where?", "Tell-more."):
        small.send(question)
    rows = [snapshot.rows for snapshot in small.cache.snapshots.all]
    assert len(rows) == 2 and small.cache.snapshots.nbytes <= 2 * one
    small.messages.pop()
    assert small.answer()[0] == 1


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_without_marks_keep_what_they_share(family):
    chat = CheckedChat(family)
    text = list(range(40))
    passed = [chat.answer_prompt(text + [50 + i] * 9, ()) for i in range(3)]
    shared = 0 if family in ("gemma3_text", "qwen3_next") else 40
    # The second prompt shows where they differ; the third continues from there.
    assert passed == [49, 49 - shared, 9] or (family, passed[1:]) == ("llama4", [49, 9])


@pytest.mark.slow
@pytest.mark.parametrize("family", ("gemma3_text", "qwen3_next"))
def test_snapshots_of_another_text_are_dropped(family):
    chat, text = CheckedChat(family), list(range(60))
    chat.answer_prompt(text, (20, 40))
    other = text[:20] + text[:19:-1]
    assert chat.answer_prompt(other, ()) == 40
    # A snapshot of 40 tokens would belong to the first text.
    assert chat.answer_prompt(other[:50] + [1, 2, 3], ()) == 33


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("inside", (True, False))
def test_an_interrupted_prefill_continues_from_valid_rows(family, inside):
    """The interrupt comes between two chunks, or between two layers."""
    chat = CheckedChat(family, "thinking")
    chat.send("What-is-this?")
    chat.messages.append({"role": "user", "content": "Tell-me-more-about-this."})
    ids, found = chat.prompt()
    rest = chat.cache.reuse(ids, found)
    kept = len(ids) - len(rest)
    assert kept > 10

    def stop(done, total):
        if done >= total // 2:
            if not inside:
                raise KeyboardInterrupt
            interrupt(chat.model.layers[2])

    options = {"prompt_cache": chat.cache, "prefill_step_size": 5, "progress": stop}
    with pytest.raises(KeyboardInterrupt):
        list(decode(chat.pair, rest, **options))
    uncuttable = family in ("gemma3_text", "qwen3_next")
    broken = chat.cache.broken
    assert broken == (inside and uncuttable)
    passed, new = chat.answer()
    # Broken caches go back to a mark of the prompt; the others lose nothing.
    assert new < passed <= len(ids) - kept if broken else passed == new


def test_a_template_that_fails_is_reported():
    question = [{"role": "user", "content": "Hi"}]
    tokenizer = make_tokenizer("{{ messages[0].content + 1 }}")
    with pytest.raises(PromptError, match="rejects these messages"):
        apply_template(tokenizer, question)
    # Only the made-up next turn fails, so nothing is known about later prompts.
    tokenizer = make_tokenizer(
        "{{ messages[0].content }}{% if messages[2] %}{{ 'a' + 1 }}{% endif %}"
    )
    assert marks(tokenizer, question)[1] == 0
    # The template rewrites the answer, so it cannot be continued.
    tokenizer = make_tokenizer(TEMPLATES["thinking"])
    begun = [*question, {"role": "assistant", "content": "<think>Hm</think>Ok"}]
    with pytest.raises(PromptError, match="rejects these messages"):
        apply_template(tokenizer, begun, continue_final_message=True)


def test_a_template_that_needs_more_than_a_question_shows_no_mode():
    tokenizer = make_tokenizer(
        "{% if messages[0].role != 'system' %}{{ raise_exception('no') }}{% endif %}"
        "{% if enable_thinking %}<think>{% endif %}"
    )
    assert Thinking().thinks(tokenizer) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "step"), [("qwen3", 31), ("gemma3_text", 43), ("qwen3_next", 67)]
)
def test_an_interrupt_at_any_line_of_a_rollback(monkeypatch, family, step):
    """A snapshot is restored or taken, or the rest of the prompt is prefilled."""
    files = [f"cache/{name}.py" for name in ("snapshots", "state", "prompt_cache")]
    files.append("decoding/passes.py")
    monkeypatch.setattr(test_interrupts, "FILES", {str(ROOT / name) for name in files})
    model, first = architectures.build(family), list(range(40))
    second = first[:25] + [50, 51, 52, 53]
    answer = greedy(model, first, 5)
    expected = greedy(model, second, 5)
    script = Script([], [2, 0, 99], block_size=4)
    pair, ended, at = Pair.of(model, script), False, step
    while not ended:
        cache, script.text = PromptCache(pair), first + answer
        run(pair, cache.reuse(first, (20,)), 5, prompt_cache=cache)
        script.text = second + expected
        sys.settrace(Interrupt(at))
        try:
            run(pair, cache.reuse(second), 5, prompt_cache=cache)
            ended = True
        except KeyboardInterrupt:
            at += step
        finally:
            sys.settrace(None)
        rest = cache.reuse(second)
        assert run(pair, rest, 5, prompt_cache=cache) == expected
    assert at > 5 * step


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rounds", (1, 3))
def test_a_stopped_answer_stays_in_the_caches(family, rounds):
    chat = CheckedChat(family, "stable", [1, 0, 2])
    chat.send("What-is-this?")
    chat.messages.append({"role": "user", "content": "Where-did-you-find-it?"})
    ids, found = chat.prompt()
    expected = chat.expected(ids)
    rest = chat.cache.reuse(ids, found)
    answer = decode(chat.pair, rest, max_tokens=ANSWER, prompt_cache=chat.cache)
    emitted = [token for _ in range(rounds) for token in next(answer).tokens]
    answer.close()
    assert emitted == expected[: len(emitted)]
    text = chat.tokenizer.decode(emitted)
    chat.messages.append({"role": "assistant", "content": text})
    passed, new = chat.send("Go-on.")
    # All but the last emitted token was cached.
    assert passed == new <= len(chat.prompt()[0]) - len(ids) - len(emitted) + 1


@pytest.mark.slow
@pytest.mark.parametrize("window", (6, 10))
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_drafters_window_equals_a_fresh_runs(window, template):
    """Dropped rows come back, and rows that only a later turn sees are present, so the
    context is complete after every turn."""
    model = make_model("llama")
    ContextCache.SLACK, slack = 0, ContextCache.SLACK
    try:
        pair = Pair.of(model, make_drafter(window=window))
        cache, messages = PromptCache(pair), []
        tokenizer = make_tokenizer(TEMPLATES[template])
        for question in ("What-is-this?", "Where-did-you-find-it?", "Bye.", "Undo"):
            if question == "Undo":
                del messages[-4:]
            messages.append({"role": "user", "content": question})
            options = {"enable_thinking": template == "thinking"}
            ids = apply_template(tokenizer, messages, **options)
            rest = cache.reuse(ids, marks(tokenizer, messages, **options))
            list(decode(pair, rest, max_tokens=1, prompt_cache=cache))
            fresh = PromptCache(pair)
            list(decode(pair, ids, max_tokens=1, prompt_cache=fresh))
            for ours, theirs in zip(cache.drafter, fresh.drafter, strict=True):
                assert ours.positions().tolist() == theirs.positions().tolist()
                for a, b in zip(ours.fetch(), theirs.fetch(), strict=True):
                    assert mx.allclose(a, b, atol=1e-4)
            more = run(pair, [], 3 * window, prompt_cache=cache)
            messages.append({"role": "assistant", "content": tokenizer.decode(more)})
    finally:
        ContextCache.SLACK = slack


def test_a_drafters_own_rows_are_kept_if_a_snapshot_has_fewer():
    pair = Pair.of(make_model("llama"), make_drafter(window=10))
    cache, prompt = PromptCache(pair), some_prompt(20)
    run(pair, cache.reuse(prompt, (5,)), 1, prompt_cache=cache)
    cache.reuse(prompt[:17] + [1, 2])
    assert [entry.seen(17) for entry in cache.drafter] == [8, 8]


@pytest.mark.parametrize("family", ("qwen3", "qwen3_next"))
@pytest.mark.parametrize("keep", (25, 32, 45))
def test_a_cut_below_where_the_cache_was_quantized(monkeypatch, family, keep):
    """Rows that a fresh run would not quantize do not stay quantized."""
    monkeypatch.setitem(architectures.COMMON, "head_dim", 32)
    model, start = architectures.build(family), 30
    pair = Pair.of(model, None)
    cache, prompt = PromptCache(pair), some_prompt(50)
    kv = KVBits(8, 32, start)
    run(pair, cache.reuse(prompt, (keep,)), 9, prompt_cache=cache, kv=kv)
    edited = prompt[:keep] + some_prompt(3, seed=9)
    rest = cache.reuse(edited)
    assert len(rest) == (len(edited) if keep < start else 3)
    list(decode(pair, rest, max_tokens=1, prompt_cache=cache, kv=kv))
    fresh = PromptCache(pair)
    list(decode(pair, edited, max_tokens=1, prompt_cache=fresh, kv=kv))
    assert describe_caches(cache.target) == describe_caches(fresh.target)


def test_the_snapshot_store_drops_what_saves_least():
    def snapshot(rows, size=1):
        array = mx.zeros((size,), mx.uint8)
        return Snapshot(rows, {0: State("ArraysCache", {}, (array,))}, {})

    store = SnapshotStore(4)
    for rows in (500, 510, 900, 905, 940):
        store.put(snapshot(rows))
    assert [s.rows for s in store.all] == [500, 510, 900, 940]
    store.put(snapshot(941))
    assert [s.rows for s in store.all] == [500, 900, 940, 941]
    store.put(snapshot(950, 5))  # too large for the whole store
    assert [s.rows for s in store.all] == [500, 900, 940, 941]
    store.put(snapshot(960, 4))
    assert [s.rows for s in store.all] == [960]
    assert store.latest(959) is None and store.latest(960).rows == 960


COPIED = {
    "rotating": (lambda: RotatingKVCache(8, 2), [0, 1, 6, 7, 8, 9, 10, 11]),
    "bounded": (lambda: BoundedKVCache(8, 2), [0, 1, 6, 7, 8, 9, 10, 11]),
    "ordered": (lambda: OrderedKVCache(8), [4, 5, 6, 7, 8, 9, 10, 11]),
    "chunked": (lambda: ChunkedKVCache(8), [8, 9, 10, 11]),
    "recurrent": (lambda: ArraysCache(1), list(range(12))),
}


@pytest.mark.parametrize("kind", COPIED)
def test_a_snapshot_holds_the_visible_rows_and_never_changes(kind):
    make, seen = COPIED[kind]
    entry, rows = make(), mx.arange(12.0)[None, None, :, None]
    if kind == "recurrent":
        entry[0] = rows
    else:
        entry.update_and_fetch(rows, rows)
    taken = take_snapshot(12, [entry], [])
    for more in range(5):
        # A restored snapshot is as independent as a new one.
        taken.restore([entry], [])
        for _ in range(more):
            if kind == "recurrent":
                entry[0][..., 0:3, :] = 99.0
            else:
                entry.update_and_fetch(rows[..., :1, :] + 99, rows[..., :1, :])
        mx.eval(entry.state)
    assert taken.target[0].arrays[0][0, 0, :, 0].tolist() == seen


def test_boundaries_of_templates():
    chat = [
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "Two"},
        {"role": "user", "content": "Three"},
    ]
    left = {}
    for name, template in TEMPLATES.items():
        tokenizer = make_tokenizer(template)
        options = {"enable_thinking": name == "thinking"}
        ids = apply_template(tokenizer, chat, **options)
        at, kept = marks(tokenizer, chat, **options)
        assert tokenizer.decode(ids[at:]).startswith("Three")
        assert kept == stable_prefix(tokenizer, chat, **options)
        left[name] = tokenizer.decode(ids[kept:])
    assert left == {
        "stable": "",
        "thinking": "<think>",
        "not thinking": "<think></think>",
    }


def test_a_template_that_refuses_the_next_turn_has_no_surviving_ids():
    once = "{% if messages|length > 1 %}{{ raise_exception('one turn') }}{% endif %}"
    tokenizer = make_tokenizer(once + TEMPLATES["stable"])
    chat = [{"role": "user", "content": "One"}]
    assert stable_prefix(tokenizer, chat) == 0
    assert marks(tokenizer, chat)[1] == 0
    with pytest.raises(PromptError, match="rejects these messages: one turn"):
        apply_template(tokenizer, chat * 2)


@pytest.mark.slow
def test_the_benchmark_of_first_tokens_prefills_only_new_rows():
    pair, tokenizer = load("tiny")
    sizes = {"turns": 3, "question": 40, "answer": 4, "cold_every": 3}
    result = first_token.measure(pair, tokenizer, context=240, **sizes)
    rows = result["turns"]
    assert rows[0]["fed"] == rows[0]["tokens"] > 100
    assert all(20 < row["fed"] < 60 for row in rows[1:])
    assert 200 < rows[-1]["tokens"] <= 240
    assert [row["cold"] is None for row in rows] == [True, True, False]
    assert result["ratio"] == rows[-1]["warm"] / rows[-1]["cold"]
    assert len(first_token.table(result).splitlines()) == 4
    with pytest.raises(OptionError, match="as planned"):
        first_token.measure(pair, tokenizer, context=90, **sizes)
