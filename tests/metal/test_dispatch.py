"""Dispatch, gate and verdicts: with kernels that are right, wrong, slow or broken."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import mlx.core as mx
import pytest

from dflash_mlx.errors import OptionError
from dflash_mlx.metal import dispatch as dispatch_module
from dflash_mlx.metal.dispatch import Dispatch, check_mode, machine
from dflash_mlx.metal.gate import (
    BUCKETS,
    Operation,
    Request,
    fault,
    judge,
)
from dflash_mlx.metal.kernel import Kernel
from dflash_mlx.metal.verdicts import STOCK, Verdict, Verdicts

COMPILER = "Unable to build metal library from source\na:3:1: error: no\nb"


def double(x):
    return 2 * x


def doubling(name="doubling", launch=double, **changes):
    fields = {
        "name": name,
        "source": "block_matmul_dense",
        "launch": launch,
        "twin": double,
        "cases": lambda: iter([{"x": mx.ones((1, 4, 8))}]),
        "tolerance": lambda x: 1e-6,
        "refuses": lambda x: "",
    }
    return Kernel(**fields | changes)


def operation(*kernels):
    return Operation(
        "doubling",
        kernels,
        kernels[-1],
        double,
        lambda case, rows: {"x": mx.ones((1, rows, 8))},
        lambda case, row: {"x": case["x"][:, row : row + 1]},
    )


def request(*kernels):
    return Request(operation(*kernels), "8", {"x": mx.ones((1, 2, 8))})


class Clock:
    """A clock that moves by what was launched since it was read last."""

    def __init__(self):
        self.time = 0.0

    def __call__(self):
        return self.time

    def costly(self, seconds, run=double):
        def launch(x):
            self.time += seconds
            return run(x)

        return launch


def verdicts(tmp_path, machine="chip"):
    return Verdicts(machine, tmp_path / "deep" / "kernels.json")


def raising(error):
    def launch(x):
        raise error

    return launch


@pytest.mark.parametrize(
    "kernel, why",
    [
        (doubling(), ""),
        (doubling(launch=lambda x: 2 * x + 1e-3), "off by 0.001"),
        (doubling(launch=lambda x: x * float("nan")), "off by inf"),
        (doubling(refuses=lambda x: "no such shape"), "no such shape"),
        (doubling(launch=raising(RuntimeError("\nno memory"))), "run: no memory"),
        (doubling(launch=raising(RuntimeError(COMPILER))), "run: a:3:1: error: no"),
    ],
)
def test_a_kernel_must_agree_with_its_twin(kernel, why):
    found = fault(kernel, {"x": mx.ones((1, 4, 8))})
    assert why in found and bool(why) == bool(found)


def test_a_tail_stands_for_the_whole():
    case = {"x": mx.arange(16.0)}
    assert fault(doubling(), case, lambda case: {"x": case["x"][12:]}) == ""
    assert fault(doubling(), case, lambda case: {"x": case["x"][:4]})


@pytest.mark.parametrize(
    "ours, stock, choice",
    [(1.0, 2.0, "doubling"), (2.0, 1.0, STOCK), (0.97, 1.0, STOCK)],
)
def test_the_faster_one_is_chosen_by_a_margin(monkeypatch, ours, stock, choice):
    clock = Clock()
    asked = request(doubling(launch=clock.costly(ours)))
    op = replace(asked.operation, stock=clock.costly(stock))
    verdict = judge(replace(asked, operation=op), 4, clock)
    assert verdict.choice == choice
    assert verdict.microseconds == {"doubling": 1e6 * ours, STOCK: 1e6 * stock}


def test_a_wrong_kernel_never_races():
    clock = Clock()
    fast = doubling("fast", clock.costly(0.1, lambda x: 3 * x))
    right = doubling("right", clock.costly(0.5))
    asked = request(fast, right)
    op = replace(asked.operation, stock=clock.costly(1.0))
    verdict = judge(replace(asked, operation=op), 4, clock)
    assert verdict.choice == "right" and "fast: is off by" in verdict.why
    assert "fast" not in verdict.microseconds


def test_a_kernel_must_be_right_on_every_form_of_a_shape():
    def launch(x):
        return 2 * x + (x.min() < 0)

    op = replace(
        operation(doubling(launch=launch)), forms=lambda c: [c, {"x": -c["x"]}]
    )
    verdict = judge(Request(op, "8", {"x": mx.ones((1, 2, 8))}), 4)
    assert verdict.choice == STOCK and "off by 1" in verdict.why


def test_verdicts_are_kept_by_machine(tmp_path):
    kept = verdicts(tmp_path)
    kept.put("a", Verdict("doubling", "faster", {"stock": 2.0}))
    verdicts(tmp_path, "other").put("a", Verdict(STOCK, "slower"))
    assert verdicts(tmp_path).all() == {
        "a": Verdict("doubling", "faster", {STOCK: 2.0})
    }
    assert kept.clear() == 1 and kept.all() == {} and kept.clear() == 0
    assert verdicts(tmp_path, "other").all() == {"a": Verdict(STOCK, "slower")}


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", '{"chip": 3}', '{"chip": {"a": {"b": 1}}}'),
        '{"chip": {"a": {"choice": ["b"], "why": ""}}}',
    ],
)
def test_a_broken_file_counts_as_empty(tmp_path, text):
    kept = verdicts(tmp_path)
    kept.store.file.parent.mkdir()
    kept.store.file.write_text(text)
    assert kept.all() == {}
    kept.put("a", Verdict(STOCK, ""))
    assert kept.all() == {"a": Verdict(STOCK, "")}


def test_a_file_that_cannot_be_written_costs_nothing(tmp_path):
    (tmp_path / "deep").write_text("a file, no folder")
    kept = verdicts(tmp_path)
    kept.put("a", Verdict(STOCK, ""))
    assert kept.all() == {}


def test_a_file_system_without_locks_will_do(tmp_path, monkeypatch):
    def flock(*arguments):
        raise OSError("Operation not supported")

    monkeypatch.setattr("dflash_mlx.store.fcntl.flock", flock)
    kept = verdicts(tmp_path)
    kept.put("a", Verdict(STOCK, ""))
    assert kept.all() == {"a": Verdict(STOCK, "")} and kept.clear() == 1


def settled(tmp_path, monkeypatch, kernel, choice, **options):
    monkeypatch.setattr(
        "dflash_mlx.metal.dispatch.judge", lambda *asked: Verdict(choice, "told")
    )
    said = []
    dispatch = Dispatch(verdicts=verdicts(tmp_path), notice=said.append, **options)
    dispatch.settle([request(kernel)])
    return dispatch, said


def called(dispatch, kernel, rows):
    case = {"x": mx.ones((1, rows, 8))}
    return dispatch.call(operation(kernel), "8", rows, case)


def test_blocks_go_to_the_kernel_and_single_rows_do_not(tmp_path, monkeypatch):
    kernel = doubling()
    dispatch, said = settled(tmp_path, monkeypatch, kernel, "doubling")
    ran = [called(dispatch, kernel, rows) is not None for rows in range(1, 19)]
    assert ran == [False, *[True] * 15, False, False]
    assert len(said) == 1 and "4 trials" in said[0]


def test_stock_stays_where_it_is_faster(tmp_path, monkeypatch):
    kernel = doubling()
    dispatch, _ = settled(tmp_path, monkeypatch, kernel, STOCK)
    assert all(called(dispatch, kernel, rows) is None for rows in range(1, 17))


def test_a_shape_that_was_not_asked_about_stays_stock(tmp_path, monkeypatch):
    kernel = doubling()
    dispatch, _ = settled(tmp_path, monkeypatch, kernel, "doubling")
    assert dispatch.call(operation(kernel), "9", 4, {"x": mx.ones((1, 4, 9))}) is None


def test_what_is_known_is_not_measured_again(tmp_path, monkeypatch):
    kernel = doubling()
    settled(tmp_path, monkeypatch, kernel, "doubling")
    dispatch, said = settled(tmp_path, monkeypatch, kernel, STOCK)
    assert not said and called(dispatch, kernel, 4) is not None
    dispatch.settle([request(kernel)], again=True)
    assert said and called(dispatch, kernel, 4) is None


def test_what_verdicts_depend_on(metal, monkeypatch):
    told = machine()
    for part in ("Apple M3 Max", "applegpu_g15s", "macOS", mx.__version__):
        assert part in told
    monkeypatch.setattr(dispatch_module, "fingerprint", lambda: "another")
    assert machine() != told


def test_what_cannot_be_measured_stays_stock(tmp_path, monkeypatch):
    calls = iter(range(100))

    def launch(x):
        if next(calls) > 3:
            raise RuntimeError("lost")
        return 2 * x

    dispatch = Dispatch(verdicts=verdicts(tmp_path))
    dispatch.settle([request(doubling(launch=launch))])
    whys = [verdict.why for verdict in verdicts(tmp_path).all().values()]
    assert len(whys) == 4 and all("lost" in why for why in whys)


def test_two_writers_lose_nothing(tmp_path):
    def write(name):
        for n in range(20):
            verdicts(tmp_path).put(f"{name}{n}", Verdict(STOCK, name))

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, "abc"))
    assert len(verdicts(tmp_path).all()) == 60


def test_a_needed_kernel_must_be_right_too(tmp_path):
    wrong = doubling("wrong", lambda x: 3 * x)
    op = replace(operation(doubling()), needs=(wrong,))
    verdict = judge(Request(op, "8", {"x": mx.ones((1, 2, 8))}), 2)
    assert verdict.choice == STOCK and "wrong: is off by 1" in verdict.why


def test_a_crash_while_measuring_is_remembered(tmp_path, monkeypatch):
    file, kernel = verdicts(tmp_path).store.file, doubling()

    def interrupted(*asked):
        interrupted.left = file.read_text()
        raise KeyboardInterrupt

    monkeypatch.setattr("dflash_mlx.metal.dispatch.judge", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Dispatch(verdicts=verdicts(tmp_path)).settle([request(kernel)])
    assert not verdicts(tmp_path).all()  # a user's impatience is no crash
    file.write_text(interrupted.left)
    (verdict,) = verdicts(tmp_path).all().values()
    assert verdict.choice == STOCK and "ended while it was measured" in verdict.why
    dispatch, _ = settled(tmp_path, monkeypatch, kernel, "doubling")
    assert (
        called(dispatch, kernel, 2) is None and called(dispatch, kernel, 4) is not None
    )


@pytest.mark.parametrize("error", [RuntimeError, ValueError])
def test_a_kernel_that_cannot_be_launched_is_dropped_and_said_once(
    tmp_path, monkeypatch, error
):
    kernel = doubling(launch=raising(error("no such thing")))
    dispatch, said = settled(tmp_path, monkeypatch, kernel, "doubling")
    assert called(dispatch, kernel, 4) is None and called(dispatch, kernel, 8) is None
    assert said[1:] == ["The doubling kernel is off from here on: no such thing"]
    assert dispatch.dropped == {"doubling": "no such thing"}
    dispatch.settle([request(kernel)])
    assert called(dispatch, kernel, 4) is None


def test_all_kernels_in_service_are_dropped_together(tmp_path, monkeypatch):
    kernel = doubling()
    dispatch, said = settled(tmp_path, monkeypatch, kernel, "doubling")
    assert dispatch.drop_all("the GPU hung") and called(dispatch, kernel, 4) is None
    assert not dispatch.drop_all("the GPU hung") and len(said) == 2


def test_exact_takes_every_row_without_a_race(tmp_path):
    kernel, said = doubling(refuses=lambda x: "odd" if x.shape[1] == 3 else ""), []
    dispatch = Dispatch(True, verdicts(tmp_path), said.append)
    ran = [called(dispatch, kernel, rows) is not None for rows in range(1, 18)]
    assert ran == [True, True, False, *[True] * 13, False]
    assert said == ["Rows may depend on their block: doubling odd."]
    dispatch.drop("doubling", "why")
    assert "rows may now depend on their block" in said[1]
    assert dispatch.launch(kernel, {"x": mx.ones((1, 4, 8))}) is None


def test_exact_takes_the_exact_one_of_several(tmp_path):
    fast, right = doubling("fast", lambda x: 3 * x), doubling("right")
    case = {"x": mx.ones((1, 4, 8))}
    y = Dispatch(True, verdicts(tmp_path)).call(operation(fast, right), "8", 4, case)
    assert y.max().item() == 2


def test_nothing_is_said_twice(tmp_path):
    kernel, said = doubling(refuses=lambda x: "odd"), []
    dispatch = Dispatch(True, verdicts(tmp_path), said.append)
    for rows in (2, 3):
        assert called(dispatch, kernel, rows) is None
    assert len(said) == 1


def test_siblings_drop_together(tmp_path, monkeypatch):
    kernel = doubling()
    dispatch, said = settled(tmp_path, monkeypatch, kernel, "doubling")
    other = dispatch.sibling()
    other.settle([request(kernel)])
    assert called(other, kernel, 4) is not None
    dispatch.drop("doubling", "why")
    assert called(other, kernel, 4) is None and not other.in_service
    other.drop("doubling", "why")
    assert len(said) == 2


def test_a_drafter_tells_what_exactness_loses(tmp_path):
    said = []
    Dispatch(True, verdicts(tmp_path), said.append).sibling().drop("doubling", "why")
    assert "rows may now depend on their block" in said[0]


def test_listening_collects_each_shape_once(tmp_path):
    kernel = doubling()
    dispatch = Dispatch(verdicts=verdicts(tmp_path))
    assert not dispatch.takes(1) and Dispatch(True, dispatch.verdicts).takes(1)
    with dispatch.listening() as requests:
        assert dispatch.takes(1)
        for rows in (2, 5):
            called(dispatch, kernel, rows)
        dispatch.call(operation(kernel), "9", 2, {"x": mx.ones((1, 2, 9))})
    called(dispatch, kernel, 2)
    assert not dispatch.takes(1)
    assert [request.shape for request in requests] == ["8", "9"]


def test_verdicts_are_plain_json(tmp_path, monkeypatch):
    settled(tmp_path, monkeypatch, doubling(), "doubling")
    told = json.loads(verdicts(tmp_path).store.file.read_text())["chip"]
    assert len(told) == len(BUCKETS)
    assert all(entry["choice"] == "doubling" for entry in told.values())


def test_modes():
    for mode in ("auto", "off", "exact"):
        check_mode(mode)
    with pytest.raises(OptionError, match="--kernels must be auto, off, exact"):
        check_mode("fast")
