"""`report`: its sections, what is removed from them, and what an interrupt keeps."""

from dataclasses import replace
from pathlib import Path

import pytest

from dflash_mlx.bench import verify
from dflash_mlx.bench.verify import Comparison
from dflash_mlx.errors import PairError
from dflash_mlx.metal.check import Finding
from dflash_mlx.speculation.costs import Curve
from dflash_mlx.terminal import report
from dflash_mlx.terminal.report import ReportOptions, Scrubber, Section
from tests.equipment.program import program


def test_names_of_users_hosts_and_folders_are_removed(monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: Path("/opt/homes/annabel"))
    monkeypatch.setattr(report, "user_name", lambda: "annabel")
    monkeypatch.setattr(report.platform, "node", lambda: "annas-mac.local")
    scrub = Scrubber()
    assert scrub("No /opt/homes/annabel/models/x.") == "No ~/models/x."
    assert scrub("File /Users/someone/a.py, line 3") == "File ~/a.py, line 3"
    assert scrub("'/home/someone'") == "'~'"
    assert scrub("annabel on annas-mac") == "*** on ***"
    assert scrub("annabella") == "annabella"


def test_short_and_unknown_names_remove_nothing_else(monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: Path("/"))
    monkeypatch.setattr(report, "user_name", lambda: "")
    monkeypatch.setattr(report.platform, "node", lambda: "m1")
    assert Scrubber()("an m1 with /models/a") == "an m1 with /models/a"


def test_a_folder_is_shown_by_its_name(tmp_path):
    assert report.shown_name(str(tmp_path / "no" / "model")) == str(
        tmp_path / "no" / "model"
    )
    (tmp_path / "model").mkdir()
    assert report.shown_name(str(tmp_path / "model")) == "model"
    assert report.shown_name("qwen3-8b") == "qwen3-8b"


def interrupted():
    yield "found before"
    raise KeyboardInterrupt


def broken():
    yield "found before"
    raise ZeroDivisionError


def refused():
    raise PairError("The drafter does not fit.", "Choose another.")
    yield


def sections(monkeypatch, *lines):
    found = [Section(f"part {i}", each) for i, each in enumerate(lines)]
    monkeypatch.setattr(report, "sections_of", lambda options: found)


def test_ctrl_c_keeps_what_was_found(monkeypatch, capsys):
    sections(monkeypatch, lambda: iter(["whole"]), interrupted, broken)
    with pytest.raises(KeyboardInterrupt):
        report.run(ReportOptions())
    out = capsys.readouterr().out
    assert out.endswith(
        "whole\n\n#### part 1\n\nfound before\n\n(stopped here with Ctrl-C)\n"
    )
    sections(monkeypatch, interrupted)
    assert program("report").returncode == 130


def test_a_part_that_fails_is_reported_and_the_report_goes_on(monkeypatch, capsys):
    sections(monkeypatch, refused, broken, lambda: iter(["whole"]))
    assert not report.run(ReportOptions())
    out, err = capsys.readouterr()
    assert "**The drafter does not fit. Choose another.**" in out
    assert "ZeroDivisionError" in out and "\nwhole\n" in out
    assert err.splitlines() == [f"{i + 1} of 3: part {i}" for i in range(3)]
    assert program("report").returncode == 1


def test_wrong_kernels_and_changed_answers_fail(monkeypatch, capsys):
    found = [
        Finding("fast", "a", 3, "yes", True),
        Finding("block", "b", 2, "no", False),
    ]
    monkeypatch.setattr(report.mx.metal, "is_available", lambda: True)
    monkeypatch.setattr(report, "check", lambda: iter(found))
    sections(monkeypatch, report.kernels)
    assert not report.run(ReportOptions())
    assert "**These kernels are wrong: block.**" in capsys.readouterr().out
    same = Comparison("a", 4, None, None, "identical", True)
    tie = Comparison("b", 4, 3, 1e-6, "near tie", False)
    assert verify.is_right([same, tie], "auto")
    assert not verify.is_right([same, tie], "exact")
    assert not verify.is_right([replace(tie, verdict="different")], "auto")


def test_the_cost_of_a_pass_by_rows():
    curve = Curve({1: 0.010, 4: 0.0125}, {4: 0.002})
    lines = list(report.passes(curve))
    assert lines[2:4] == ["| 1 | 10.00 |  |", "| 4 | 12.50 | 2.00 |"]


def test_options_that_need_a_model():
    run = program("report", "--draft", "tiny")
    assert run.returncode == 2 and "--draft needs --model" in run.stderr


@pytest.mark.full("programs")
def test_the_report_of_the_embedded_pair(monkeypatch):
    monkeypatch.setattr(report, "VERIFY_TOKENS", 8)
    monkeypatch.setattr(report, "BENCHMARK_TOKENS", 16)
    run = program("report", "--seconds", "0")
    assert run.returncode == 0, run.stderr
    titles = [line[5:] for line in run.stdout.splitlines() if line.startswith("#### ")]
    assert titles == [
        "Machine",
        "Kernels",
        "Answers of tiny, with drafts and without",
        "Answers of tiny with --exact, with drafts and without",
        "Speed of tiny",
    ]
    assert run.stdout.count("4 of 4 answers are identical to plain decoding.") == 2
    for engine in ("plain", "dflash 2", "dflash 4", "dflash 8"):
        assert f"| exercises | {engine} | " in run.stdout
    assert str(Path.home()) not in run.stdout
    assert "5 of 5: Speed of tiny" in run.stderr
    again = program("report", "--model", "tiny", "--draft", "none", "--seconds", "0")
    assert again.returncode == 1 and "drafting is off" in again.stdout
