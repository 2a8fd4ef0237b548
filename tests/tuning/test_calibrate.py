"""Calibration: a curve is measured once, stored, and used."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from dflash_mlx import (
    Pair,
    decode,
    generate,
    load,
)
from dflash_mlx.metal.dispatch import Dispatch
from dflash_mlx.speculation.costs import (
    ASSUMED,
    DRAFTER,
    PLAIN,
    Curve,
)
from dflash_mlx.speculation.history import History
from dflash_mlx.store import Store
from dflash_mlx.tuning import calibrate
from dflash_mlx.tuning.calibrate import (
    curve_key,
    default_store,
    measure,
    parse_curve,
    widths_to_measure,
)
from tests.equipment.tiny import (
    Script,
    make_drafter,
    make_model,
    some_prompt,
)
from tests.metal.doubling import SHAPE, doubling, verdicts


class Clock:
    """A clock that advances by a given cost per pass, not by real time."""

    def __init__(self, pair, verify, draft):
        self.now, self.verify, self.draft = 0.0, verify, draft
        target, drafter = pair.target, pair.drafter
        forward, propose = target.forward, drafter.propose

        def passed(tokens, *rest):
            self.now += self.verify(tokens.shape[1])
            return forward(tokens, *rest)

        def drafting(anchor, cache, width, choose):
            self.now += self.draft(width)
            return propose(anchor, cache, width, choose)

        target.forward, drafter.propose = passed, drafting

    def __call__(self):
        return self.now


@pytest.mark.slow
def test_measures_the_given_curve():
    pair = Pair.of(make_model("llama"), make_drafter(block_size=16))
    clock = Clock(pair, lambda rows: 1 + rows / 8, lambda rows: 0.25 + rows / 64)
    curve = measure(pair, clock, budget=1e9)
    assert set(curve.verify) == {1, 2, 3, 4, 5, 6, 8, 12, 16}
    assert curve.verify == {w: pytest.approx(1 + w / 8) for w in curve.verify}
    assert curve.draft == {w: pytest.approx(0.25 + w / 64) for w in curve.draft}


@pytest.mark.slow
def test_the_first_passes_of_a_width_are_not_counted():
    """Kernels are compiled in them. The median ignores one more slow pass."""
    pair, times = Pair.of(make_model("llama"), make_drafter(block_size=16)), {}

    def passed(rows):
        times[rows] = times.get(rows, 0) + 1
        warm = times[rows] > (5 if rows == 1 else 2)  # one slow pass more
        return 1.0 if warm else 50.0

    curve = measure(pair, Clock(pair, passed, lambda rows: 0.5), budget=1e9)
    assert set(curve.verify.values()) == {1.0}


def test_the_ends_of_the_curve_are_measured_whatever_the_budget():
    pair = Pair.of(make_model("llama"), make_drafter(block_size=16))
    clock = Clock(pair, lambda rows: 1.0, lambda rows: 1.0)
    assert set(measure(pair, clock, budget=0.1).verify) == {1, 2, 16}


@pytest.mark.slow
def test_first_passes_do_not_use_up_the_budget():
    """They compile, which takes most of the time on a Mac."""
    pair, times = Pair.of(make_model("llama"), make_drafter(block_size=16)), {}

    def passed(rows):
        times[rows] = times.get(rows, 0) + 1
        return 0.01 if times[rows] > (4 if rows == 1 else 1) else 50.0

    curve = measure(pair, Clock(pair, passed, lambda rows: 0.01), budget=1.5)
    assert set(curve.verify) == {1, 2, 3, 4, 5, 6, 8, 12, 16} and not curve.cut_short


@pytest.mark.slow
def test_a_curve_that_was_cut_short_is_continued_at_the_next_load(
    tmp_path, monkeypatch
):
    store, widths = Store("here", tmp_path / "costs.json"), []
    stock = calibrate.measure

    def measure(pair, **options):
        clock = Clock(pair, lambda rows: 1.0 + rows / 8, lambda rows: 0.25)
        return stock(pair, clock, budget=0.1, **options)

    monkeypatch.setattr(calibrate, "measure", measure)
    for _ in range(8):
        pair = Pair.of(make_model("llama"), make_drafter(block_size=16))
        calibrate.calibrate(pair, print, store)
        curve = pair.history.costs.curve
        widths.append((len(curve.verify), curve.cut_short))
    # Every load adds a width, and none is measured twice.
    assert widths[:6] == [(n, True) for n in range(3, 9)]
    assert widths[6:] == [(9, False)] * 2
    assert curve.verify == {w: pytest.approx(1 + w / 8) for w in curve.verify}


def test_progress_names_each_width_and_the_number_of_all(tmp_path, monkeypatch):
    lines, notices = [], []
    pair = Pair.of(make_model("llama"), make_drafter(block_size=3))
    store = Store("here", tmp_path / "costs.json")
    calibrate.calibrate(pair, notices.append, store, status=lines.append)
    assert [line.partition(", about")[0] for line in lines] == [
        f"Measuring the speed of passes: {rows}, {at} of 3"
        for at, rows in enumerate(("1 row", "3 rows", "2 rows"), 1)
    ]
    assert notices == [calibrate.MEASURING] and "--no-calibration" in notices[0]


def test_a_kernel_that_fails_while_passes_are_timed_is_dropped(tmp_path, monkeypatch):
    pair, notices, tries = Pair.of(make_model("llama"), make_drafter()), [], []
    dispatch = Dispatch(True, verdicts(tmp_path), notices.append)
    dispatch._chosen["doubling", SHAPE, 2] = doubling()
    store = Store("here", tmp_path / "costs.json")

    def measure(pair, **_):
        tries.append(pair.kernels_in_service)
        if tries[-1]:
            raise RuntimeError("[METAL] Command buffer execution failed: hang")
        return ASSUMED

    monkeypatch.setattr(calibrate, "measure", measure)
    with_kernel = replace(pair, kernels=(dispatch,))
    calibrate.calibrate(with_kernel, notices.append, store)
    assert tries == [["doubling"], []] and "doubling kernel is off" in notices[-1]
    assert list(store.all()) == [curve_key(pair)]
    monkeypatch.setattr(calibrate, "measure", lambda pair, **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        calibrate.calibrate(pair, notices.append, Store("there", store.file))


def test_nothing_is_measured_if_the_user_says_no(tmp_path):
    store, notices = Store("here", tmp_path / "costs.json"), []
    pair = Pair.of(make_model("llama"), make_drafter())
    calibrate.calibrate(pair, notices.append, store, measuring=False)
    assert pair.history.costs.curve is ASSUMED and not notices
    store.put(curve_key(pair), {"verify": {1: 2.0, 8: 3.0}, "draft": {8: 0.2}})
    calibrate.calibrate(pair, notices.append, store, measuring=False)
    assert pair.history.costs.curve.verify[1] == 2.0 and not notices


@pytest.mark.parametrize("widest", (2, 3, 7, 8, 10, 16, 40))
def test_widths_do_not_exceed_the_drafters(widest):
    widths = list(widths_to_measure(widest))
    assert widths[0] == widest and len(set(widths)) == len(widths)
    assert all(1 < width <= widest for width in widths)


def test_a_curve_is_measured_once_and_stored(tmp_path, monkeypatch):
    store = Store("here", tmp_path / "costs.json")
    pair, notices, times = Pair.of(make_model("llama"), make_drafter()), [], []

    def once(pair, **_):
        times.append(1)
        return Curve({1: 1.0, 8: 2.0}, {2: 0.1, 8: 0.2})

    monkeypatch.setattr(calibrate, "measure", once)
    calibrate.calibrate(pair, notices.append, store)
    again = Pair.of(make_model("llama"), make_drafter())
    calibrate.calibrate(again, notices.append, store)
    assert len(times) == len(notices) == 1
    for each in (pair, again):
        assert each.history.costs.seconds(PLAIN, 1, 0) == 1.0
        assert each.history.costs.seconds(DRAFTER, 8, 0) == pytest.approx(2.2)
    # Another machine, another size or another drafter has a curve of its own.
    calibrate.calibrate(again, notices.append, Store("there", tmp_path / "costs.json"))
    other = Pair.of(make_model("llama"), make_drafter(block_size=4))
    calibrate.calibrate(other, notices.append, store)
    assert len(times) == 3


@pytest.mark.parametrize(
    "entry",
    [
        None,
        3,
        {},
        {"verify": {"1": 1.0}},
        {"verify": {"1": 1.0}, "draft": {}},
        {"verify": {"2": 1.0}, "draft": {"2": 1.0}},
        {"verify": {"1": -1.0}, "draft": {"2": 1.0}},
        {"verify": {"one": 1.0}, "draft": {"2": 1.0}},
        {"verify": [1.0], "draft": {"2": 1.0}},
        {"verify": {"1": float("inf")}, "draft": {"2": 1.0}},
        {"verify": {"1": 10**400}, "draft": {"2": 1.0}},
    ],
)
def test_invalid_entries_are_measured_again(entry):
    assert parse_curve(entry) is None


def measured(folder):
    """A store, and a pair with the curve in it, and its costs."""
    store = Store("here", folder / "costs.json")
    pair = Pair.of(make_model("llama"), make_drafter())
    store.put(curve_key(pair), {"verify": {1: 2.0, 8: 3.0}, "draft": {8: 0.2}})
    calibrate.calibrate(pair, print, store)
    return store, pair, pair.history.costs


def test_a_curve_measured_under_load_is_measured_again(tmp_path):
    store, pair, costs = measured(tmp_path)
    for seconds, kept in ((4.0, True), (1.8, True), (1.0, False)):
        costs.reset(costs.curve)
        for _ in range(20):
            costs.record(PLAIN, 1, 0, seconds)
        calibrate.recheck(pair, store)
        assert (curve_key(pair) in store.all()) == kept
    # The curve in use was corrected, and is not corrected again.
    assert costs.seconds(PLAIN, 1, 0) == pytest.approx(1.0)
    assert costs.seconds(DRAFTER, 8, 0) == pytest.approx(1.6)
    assert costs.plain_ratio() == 1.0


def test_a_slow_caller_does_not_cause_a_new_measurement(tmp_path):
    """Passes continue while the caller works, so only a short rest of them is timed."""
    store, pair, costs = measured(tmp_path)
    for _ in range(20):
        costs.record(PLAIN, 1, 0, 0.2, caller_seconds=1.8)
    calibrate.recheck(pair, store)
    assert curve_key(pair) in store.all() and costs.curve.verify[1] == 2.0
    assert costs.seconds(PLAIN, 1, 0) < 1.0  # but the choice of widths uses it


@pytest.mark.slow
def test_an_answer_that_shows_a_slow_curve_corrects_it():
    pair, tokenizer = load("tiny")
    costs, slow = pair.history.costs, pair.history.costs.curve.scaled(50.0)
    costs.reset(slow)
    for _ in range(costs.ENOUGH_ROUNDS):
        costs.record(PLAIN, 1, 0, slow.verify[1] / 50.0)
    generate(pair, tokenizer, "What is 12 + 34?", max_tokens=4)
    assert costs.curve.verify[1] == pytest.approx(slow.verify[1] / 50.0, rel=0.2)
    assert curve_key(pair) not in default_store().all()
    calibrate.calibrate(pair, print)  # for the tests that load it next


def test_a_guessed_curve_is_not_rechecked(tmp_path):
    """A corrected guess would count as a measurement."""
    store, pair = (
        Store("here", tmp_path / "x"),
        Pair.of(make_model("llama"), Script([1, 2, 3], [1])),
    )
    for _ in range(20):
        pair.history.costs.record(PLAIN, 1, 0, 0.01)
    calibrate.recheck(pair, store)
    assert pair.history.costs.curve is ASSUMED and not list(tmp_path.iterdir())


def test_nothing_is_measured_without_a_drafter():
    pair, notices = Pair.of(make_model("llama")), []
    calibrate.calibrate(pair, notices.append)
    assert not notices and pair.history.costs.curve.assumed


def test_load_calibrates():
    pair, _ = load("tiny")
    assert not pair.history.costs.curve.assumed and pair.history.costs.plain_is_known
    kept = json.loads(calibrate.default_file().read_text())
    assert curve_key(pair) in kept[calibrate.machine()]
    plain, _ = load("tiny", "none")
    assert plain.history.costs.curve.assumed


@pytest.mark.slow
def test_measuring_has_no_side_effects():
    """Neither on later answers, nor on MLX's random number generator."""
    import mlx.core as mx

    model, prompt = make_model("qwen3"), some_prompt(20)
    pair = Pair.of(model, make_drafter())
    mx.random.seed(3)
    expected = mx.random.uniform(shape=(3,)).tolist()
    mx.random.seed(3)
    measure(pair, budget=0.0)
    assert mx.random.uniform(shape=(3,)).tolist() == expected
    assert pair.history.to_json() == History().to_json()
    assert not pair.history.costs.corrections
    answer = [r.tokens for r in decode(pair, prompt, max_tokens=20, block_size=8)]
    fresh = Pair.of(model, make_drafter())
    assert answer == [
        r.tokens for r in decode(fresh, prompt, max_tokens=20, block_size=8)
    ]


def test_scripted_drafters_need_a_text_and_are_not_calibrated_by_pair_of():
    pair = Pair.of(make_model("llama"), Script([1, 2, 3], [1]))
    assert pair.history.costs.curve.assumed
