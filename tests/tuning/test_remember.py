"""What answers have shown is kept from process to process."""

from __future__ import annotations

import json
import threading

import pytest

from dflash_mlx import Pair, load, stream_generate
from dflash_mlx.speculation.acceptance import Acceptance
from dflash_mlx.store import Store
from dflash_mlx.tuning import remember as module
from dflash_mlx.tuning.remember import pair_key, put, remember
from tests.equipment.tiny import Script, make_drafter, make_model


@pytest.fixture
def store(tmp_path):
    return Store("this machine", tmp_path / "answers.json")


def pair_with_history(seed=0):
    pair = Pair.of(make_model("qwen3"), make_drafter())
    for _ in range(12 * bool(seed)):
        pair.history.acceptance.record(7, 7)
        pair.history.credit = 3.0
    return pair


def wait():
    """Until every thread that writes has ended."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()


def test_a_later_process_starts_from_what_an_earlier_one_learnt(store):
    first = remember(pair_with_history(seed=1), store=store)
    first.after_answer()
    wait()
    second = remember(pair_with_history(), store=store)
    assert second.history.credit == 3.0
    assert second.history.acceptance.expected_tokens(7)[7] > 5.0
    other = Pair.of(make_model("llama"), make_drafter())
    other.history.credit = 0.5
    assert remember(other, store=store).history.credit == 0.5


@pytest.mark.parametrize(
    "entry",
    [None, [], {}, {"history": {}}, {"history": {"acceptance": 3}}, {"history": [1]}],
)
def test_a_damaged_entry_counts_as_none(store, entry):
    pair = pair_with_history()
    store.put(pair_key(pair), entry)
    before = pair.history.to_json()
    assert remember(pair, store=store).history.to_json() == before


def test_a_half_damaged_entry_changes_nothing(store):
    pair = pair_with_history(seed=1)
    values = pair.history.to_json() | {"credit": float("nan")}
    store.put(pair_key(pair), {"history": values})
    fresh = pair_with_history()
    before = fresh.history.to_json()
    assert remember(fresh, store=store).history.to_json() == before


def test_only_the_latest_pairs_are_kept(store, monkeypatch):
    monkeypatch.setattr(module, "MOST_PAIRS", 3)
    for i in range(6):
        put(store, f"pair {i}", {"written": 10 - i if i < 3 else 20 + i})
    assert set(store.all()) == {"pair 3", "pair 4", "pair 5"}


def test_an_entry_is_small(store):
    pair = remember(pair_with_history(seed=1), store=store)
    for kind in ("short", "long", "whole"):
        for _ in range(50):
            known = pair.history.lookup_acceptance.setdefault(kind, Acceptance())
            known.record(15, 3)
    assert len(json.dumps(pair.history.to_json())) < 4000


def test_a_pair_without_a_drafter_keeps_nothing(store):
    pair = Pair.of(make_model("qwen3"))
    assert remember(pair, store=store) is pair and store.all() == {}


def test_answers_are_kept_after_their_last_token(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "default_file", lambda: tmp_path / "answers.json")
    pair, tokenizer = load("tiny")
    file = tmp_path / "answers.json"
    prompt = [{"role": "user", "content": "What is 487 + 356?"}]
    for _ in stream_generate(pair, tokenizer, prompt, max_tokens=40):
        assert not file.exists()
    wait()
    assert "history" in file.read_text()
    again, _ = load("tiny")
    assert again.history.to_json()["credit"] == pytest.approx(
        pair.history.credit, abs=0.01
    )
    again.history.acceptance.record(7, 7)
    apart = again.without_memory()
    assert (
        apart.history.acceptance.is_new and apart.history.costs is again.history.costs
    )
    file.unlink()
    for _ in stream_generate(apart, tokenizer, prompt, max_tokens=20):
        pass
    wait()
    assert not file.exists()


def test_a_scripted_drafter_is_remembered_by_its_class(store):
    pair = Pair.of(make_model("qwen3"), Script([1, 2, 3], [99]))
    pair.history.credit = 2.0
    remember(pair, store=store).after_answer()
    wait()
    assert len(store.all()) == 1
