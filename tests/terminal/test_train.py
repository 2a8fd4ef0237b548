"""The lines that `train` prints."""

import pytest

from dflash_mlx.errors import OptionError
from dflash_mlx.terminal import train
from dflash_mlx.terminal.train import ProgressLines, progress_line, time_left
from dflash_mlx.train.options import TrainOptions
from dflash_mlx.train.trainer import StepReport, held_out_of


def report(step, held_out=None):
    return StepReport(step, 1000, 3.21, [0.5, 0.25, 0.125], 1234.5, held_out)


def test_a_line_has_few_numbers():
    assert progress_line(report(10), 700) == (
        "step 10/1000 | loss 3.210 | 1.88 tokens per round | 1,234 tokens/s | "
        "12 min left"
    )
    held_out = "| 1.88 tokens per round, 1.50 on held-out text |"
    assert held_out in progress_line(report(100, 1.5), 60)


def test_durations_have_one_unit():
    assert [time_left(s) for s in (0, 89, 91, 5399, 5401, 36000)] == [
        "0 s", "89 s", "2 min", "90 min", "1.5 h", "10.0 h",
    ]  # fmt: skip


def test_lines_come_after_the_first_step_evaluations_and_some_time(monkeypatch, capsys):
    clock = iter([0.0, 1.0, 2.0, 3.0, 12.5, 13.0])
    monkeypatch.setattr(train.time, "perf_counter", lambda: next(clock))
    lines = ProgressLines(20)
    for step in (21, 22, 23, 24, 25):
        lines(report(step, held_out=2.0 if step == 23 else None))
    steps = [line.split()[1] for line in capsys.readouterr().err.splitlines()]
    assert steps == ["21/1000", "23/1000", "25/1000"]


@pytest.mark.parametrize(
    ("conversations", "wanted"), [(2, 1), (20, 2), (319, 31), (320, 32), (90_000, 32)]
)
def test_a_tenth_of_few_conversations_is_held_out(conversations, wanted):
    assert held_out_of(conversations, TrainOptions()) == wanted


def test_a_given_number_is_held_out_or_refused():
    assert held_out_of(20, TrainOptions(held_out=5)) == 5
    for conversations, options in ((1, TrainOptions()), (5, TrainOptions(held_out=5))):
        with pytest.raises(OptionError, match="nothing to train on"):
            held_out_of(conversations, options)
