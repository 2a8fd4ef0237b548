"""Dispatch: stored verdicts, exact mode, kernels that fail, and recorded requests."""

import mlx.core as mx
import pytest

from dflash_mlx.errors import OptionError
from dflash_mlx.metal.dispatch import Dispatch, check_mode
from dflash_mlx.metal.verdicts import STOCK, Verdict
from tests.metal.doubling import (
    SHAPE,
    case,
    doubling,
    operation,
    raising,
    request,
    verdicts,
)


def with_verdict(tmp_path, monkeypatch, kernel, choice, **options):
    """A dispatch for which `choice` wins every measurement, and its notices."""
    monkeypatch.setattr(
        "dflash_mlx.metal.dispatch.choose_kernel",
        lambda request, rows: Verdict(choice, "as planned"),
    )
    notices = []
    dispatch = Dispatch(verdicts=verdicts(tmp_path), notice=notices.append, **options)
    dispatch.choose_kernels([request(kernel)])
    return dispatch, notices


def call(dispatch, kernel, rows):
    return dispatch.call(operation(kernel), SHAPE, rows, case(rows))


def test_blocks_run_by_the_kernel_and_single_rows_do_not(tmp_path, monkeypatch):
    kernel = doubling()
    dispatch, notices = with_verdict(tmp_path, monkeypatch, kernel, "doubling")
    ran = [call(dispatch, kernel, rows) is not None for rows in range(1, 19)]
    assert ran == [False, *[True] * 15, False, False]
    assert len(notices) == 1 and "4 trials" in notices[0]


def test_the_stock_operation_runs_where_it_is_faster(tmp_path, monkeypatch):
    kernel = doubling()
    dispatch, _ = with_verdict(tmp_path, monkeypatch, kernel, STOCK)
    assert all(call(dispatch, kernel, rows) is None for rows in range(1, 17))


def test_a_verdict_holds_down_to_the_next_measured_width(tmp_path, monkeypatch):
    kernel = doubling()
    monkeypatch.setattr(
        "dflash_mlx.metal.dispatch.choose_kernel",
        lambda request, rows: Verdict("doubling" if rows == 8 else STOCK, ""),
    )
    dispatch = Dispatch(verdicts=verdicts(tmp_path))
    dispatch.choose_kernels([request(kernel)])
    ran = [rows for rows in range(1, 18) if call(dispatch, kernel, rows) is not None]
    assert ran == [5, 6, 7, 8]


def test_a_shape_without_a_verdict_runs_by_mlx(tmp_path, monkeypatch):
    kernel = doubling()
    dispatch, _ = with_verdict(tmp_path, monkeypatch, kernel, "doubling")
    other = {"x": mx.ones((1, 4, 9))}
    assert dispatch.call(operation(kernel), (9,), 4, other) is None


def test_stored_verdicts_are_not_measured_again(tmp_path, monkeypatch):
    kernel = doubling()
    with_verdict(tmp_path, monkeypatch, kernel, "doubling")
    dispatch, notices = with_verdict(tmp_path, monkeypatch, kernel, STOCK)
    assert not notices and call(dispatch, kernel, 4) is not None
    dispatch.choose_kernels([request(kernel)], again=True)
    assert notices and call(dispatch, kernel, 4) is None


def test_what_cannot_be_measured_runs_by_mlx(tmp_path):
    launches = iter(range(100))

    def launch(x):
        if next(launches) > 3:
            raise RuntimeError("lost")
        return 2 * x

    dispatch = Dispatch(verdicts=verdicts(tmp_path))
    dispatch.choose_kernels([request(doubling(launch=launch))])
    whys = [verdict.why for verdict in verdicts(tmp_path).all().values()]
    assert len(whys) == 4 and all("lost" in why for why in whys)


def test_a_crash_while_measuring_is_remembered(tmp_path, monkeypatch):
    file, kernel = verdicts(tmp_path).store.file, doubling()

    def interrupted(request, rows):
        interrupted.file = file.read_text()
        raise KeyboardInterrupt

    monkeypatch.setattr("dflash_mlx.metal.dispatch.choose_kernel", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Dispatch(verdicts=verdicts(tmp_path)).choose_kernels([request(kernel)])
    assert not verdicts(tmp_path).all()  # Ctrl-C is no crash
    file.write_text(interrupted.file)
    ((key, verdict),) = verdicts(tmp_path).all().items()
    assert verdict.choice == STOCK and "ended while it was measured" in verdict.why
    # A terminal may have been closed: the first loss is measured again.
    monkeypatch.setattr("dflash_mlx.metal.dispatch.choose_kernel", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Dispatch(verdicts=verdicts(tmp_path)).choose_kernels([request(kernel)])
    assert verdicts(tmp_path).all() == {key: Verdict(STOCK, verdict.why, lost=1)}
    file.write_text(interrupted.file)  # it died again, at the same trial
    dispatch, _ = with_verdict(tmp_path, monkeypatch, kernel, "doubling")
    assert call(dispatch, kernel, 2) is None and call(dispatch, kernel, 4) is not None


HANG = "[METAL] Command buffer execution failed: Caused GPU Hang Error (00000003)"


def test_a_hang_of_the_gpu_costs_one_trial_and_ends_the_measurement(
    tmp_path, monkeypatch
):
    """Metal may refuse all work of a process after a hang."""
    tried, kernel = [], doubling()

    def choose(request, rows):
        tried.append(rows)
        if rows >= 4:
            raise RuntimeError(HANG)
        return Verdict("doubling", "as planned")

    monkeypatch.setattr("dflash_mlx.metal.dispatch.choose_kernel", choose)
    for again in range(2):
        notices, tried[:] = [], []
        dispatch = Dispatch(verdicts=verdicts(tmp_path), notice=notices.append)
        drafter = dispatch.for_drafter()
        dispatch.choose_kernels([request(kernel)])
        drafter.choose_kernels([request(doubling("another"))])
        assert tried == ([4] if again else [2, 4])
        ran = [n for n in range(1, 17) if call(dispatch, kernel, n) is not None]
        assert ran == [2] and "GPU Hang" in notices[-1] and len(notices) == 2
        stored = verdicts(tmp_path).all()
        assert [verdict.lost for verdict in stored.values()] == [0, again + 1]
    # The second loss stands, and what comes after it is measured.
    tried.clear()
    Dispatch(verdicts=verdicts(tmp_path)).choose_kernels([request(kernel)])
    assert tried == [8]


def test_a_shape_that_ran_out_of_luck_once_is_measured_again(tmp_path, monkeypatch):
    kernel, key = doubling(), request(doubling()).verdict_key(4)
    verdicts(tmp_path).put(key, Verdict(STOCK, "the program ended", lost=1))
    with_verdict(tmp_path, monkeypatch, kernel, "doubling")
    assert verdicts(tmp_path).all()[key] == Verdict("doubling", "as planned")


def test_an_interrupted_repetition_keeps_the_verdict(tmp_path, monkeypatch):
    kernel = doubling()
    with_verdict(tmp_path, monkeypatch, kernel, "doubling")
    before = verdicts(tmp_path).all()

    def interrupted(request, rows):
        raise KeyboardInterrupt

    monkeypatch.setattr("dflash_mlx.metal.dispatch.choose_kernel", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Dispatch(verdicts=verdicts(tmp_path)).choose_kernels([request(kernel)], True)
    assert verdicts(tmp_path).all() == before


def test_measuring_reports_each_trial(tmp_path, monkeypatch):
    steps, notices = [], []
    monkeypatch.setattr(
        "dflash_mlx.metal.dispatch.choose_kernel",
        lambda request, rows: Verdict(STOCK, "as planned"),
    )
    dispatch = Dispatch(verdicts=verdicts(tmp_path), notice=notices.append)
    dispatch.choose_kernels(
        [request(doubling())], report=lambda *step: steps.append(step)
    )
    assert steps == [(done, 4, "doubling") for done in range(4)]
    assert "4 trials of doubling" in notices[0] and "--kernels off" in notices[0]


def test_the_calls_of_several_layers_are_recorded_for_the_race(tmp_path):
    kernel, dispatch = doubling(), Dispatch(verdicts=verdicts(tmp_path))
    with dispatch.recording() as requests:
        for _ in range(14):
            call(dispatch, kernel, 2)
    (found,) = requests
    assert 1 + len(found.others) == 10 and found.others[0] is not found.case


@pytest.mark.parametrize("error", [RuntimeError, ValueError])
def test_a_kernel_that_cannot_be_launched_is_dropped_with_one_notice(
    tmp_path, monkeypatch, error
):
    kernel = doubling(launch=raising(error("no such thing")))
    dispatch, notices = with_verdict(tmp_path, monkeypatch, kernel, "doubling")
    assert call(dispatch, kernel, 4) is None and call(dispatch, kernel, 8) is None
    assert notices[1:] == ["The doubling kernel is off for this session: no such thing"]
    assert dispatch.dropped == {"doubling": "no such thing"}
    dispatch.choose_kernels([request(kernel)])
    assert call(dispatch, kernel, 4) is None


def test_all_kernels_in_service_are_dropped_together(tmp_path, monkeypatch):
    kernel = doubling()
    dispatch, notices = with_verdict(tmp_path, monkeypatch, kernel, "doubling")
    assert dispatch.drop_all("the GPU hung") and call(dispatch, kernel, 4) is None
    assert not dispatch.drop_all("the GPU hung") and len(notices) == 2


def test_exact_mode_runs_every_row_without_a_race(tmp_path):
    kernel = doubling(refusal=lambda x: "is odd" if x.shape[1] == 3 else "")
    notices = []
    dispatch = Dispatch(True, verdicts(tmp_path), notices.append)
    ran = [call(dispatch, kernel, rows) is not None for rows in range(1, 18)]
    assert ran == [True, True, False, *[True] * 13, False]
    assert notices == ["Rows may depend on their block: doubling is odd."]
    dispatch.drop("doubling", "why")
    assert "rows may now depend on their block" in notices[1]
    assert dispatch.launch(kernel, case(4)) is None


def test_exact_mode_runs_the_exact_candidate(tmp_path):
    fast, exact = doubling("fast", lambda x: 3 * x), doubling("exact")
    dispatch = Dispatch(True, verdicts(tmp_path))
    y = dispatch.call(operation(fast, exact), SHAPE, 4, case(4))
    assert y.max().item() == 2


def test_a_notice_is_printed_once(tmp_path):
    kernel, notices = doubling(refusal=lambda x: "is odd"), []
    dispatch = Dispatch(True, verdicts(tmp_path), notices.append)
    for rows in (2, 3):
        assert call(dispatch, kernel, rows) is None
    assert len(notices) == 1


def test_target_and_drafter_drop_a_kernel_together(tmp_path, monkeypatch):
    kernel = doubling()
    dispatch, notices = with_verdict(tmp_path, monkeypatch, kernel, "doubling")
    drafter = dispatch.for_drafter()
    drafter.choose_kernels([request(kernel)])
    assert call(drafter, kernel, 4) is not None
    dispatch.drop("doubling", "why")
    assert call(drafter, kernel, 4) is None and not drafter.in_service
    drafter.drop("doubling", "why")
    assert len(notices) == 2


def test_a_kernel_that_the_drafter_drops_is_reported_as_a_loss_of_exactness(tmp_path):
    notices = []
    dispatch = Dispatch(True, verdicts(tmp_path), notices.append)
    dispatch.for_drafter().drop("doubling", "why")
    assert "rows may now depend on their block" in notices[0]


def test_recording_collects_each_shape_once(tmp_path):
    kernel = doubling()
    dispatch = Dispatch(verdicts=verdicts(tmp_path))
    assert not dispatch.accepts(1) and Dispatch(True, dispatch.verdicts).accepts(1)
    with dispatch.recording() as requests:
        assert dispatch.accepts(1)
        for rows in (2, 5):
            call(dispatch, kernel, rows)
        dispatch.call(operation(kernel), (9,), 2, {"x": mx.ones((1, 2, 9))})
    call(dispatch, kernel, 2)
    assert not dispatch.accepts(1)
    assert [request.shape for request in requests] == [SHAPE, (9,)]


def test_shapes_with_equal_text_share_a_verdict(tmp_path, monkeypatch):
    """A verdict is stored under the text of its shape, and called by the shape."""

    class Named(tuple):
        def __str__(self):
            return "a shape"

    kernel, measured = doubling(), []

    def choose(request, rows):
        measured.append(request.verdict_key(rows))
        return Verdict("doubling", "as planned")

    monkeypatch.setattr("dflash_mlx.metal.dispatch.choose_kernel", choose)
    dispatch = Dispatch(verdicts=verdicts(tmp_path))
    shapes = Named([1]), Named([2])
    with dispatch.recording() as requests:
        for shape in shapes:
            dispatch.call(operation(kernel), shape, 2, case(2))
    dispatch.choose_kernels(requests)
    assert measured == [f"doubling a shape rows {n}" for n in (2, 4, 8, 16)]
    for shape in shapes:
        y = dispatch.call(operation(kernel), shape, 4, case(4))
        assert y is not None


def test_modes():
    for mode in ("auto", "off", "exact"):
        check_mode(mode)
    with pytest.raises(OptionError, match="--kernels must be auto, off, exact"):
        check_mode("fast")
