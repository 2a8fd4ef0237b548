"""`kernels`, `doctor`, and the options, on the emulator and without Metal."""

import json
import re
from dataclasses import replace

import mlx.core as mx
import pytest

from dflash_mlx import load
from dflash_mlx.errors import OptionError, UnsupportedError
from dflash_mlx.metal import block_matmul, check, gated_delta_block
from dflash_mlx.metal.gated_delta_block import BLOCK
from dflash_mlx.metal.layers import MATMUL
from dflash_mlx.metal.verdicts import STOCK, Verdict, Verdicts
from dflash_mlx.terminal import kernels, report
from dflash_mlx.terminal.options import kernel_mode
from tests import emulator
from tests.equipment.program import program
from tests.metal.doubling import doubling, operation, raising


@pytest.fixture
def file(tmp_path, monkeypatch):
    """The file of verdicts."""
    path = tmp_path / "kernels.json"
    monkeypatch.setattr("dflash_mlx.metal.verdicts.default_file", lambda: path)
    return path


def stub_choice(monkeypatch, choice):
    """Replace measuring: `choice` wins for every operation."""
    monkeypatch.setattr(
        "dflash_mlx.metal.dispatch.choose_kernel",
        lambda *_: Verdict(choice, "as planned", {STOCK: 2.5}),
    )


def test_without_metal_kernels_are_off_and_doctor_reports_it(monkeypatch):
    monkeypatch.setattr(mx.metal, "is_available", lambda: False)  # also on a Mac
    for arguments in ((), ("--check",), ("--model", "tiny"), ("--clear",)):
        run = program("kernels", *arguments)
        assert run.returncode == 1 and "no Metal GPU here" in run.stderr
    facts = json.loads(program("doctor", "--json").stdout)
    assert facts["kernels"] == "off" and "not available" in facts["metal"]
    assert mx.__version__ in facts["versions"]
    lines = program("doctor").stdout.splitlines()
    assert [line.split("  ")[0].strip() for line in lines] == [
        name.replace("_", " ") for name in facts
    ]


def test_doctor_on_metal(metal, file):
    found = report.examine()
    assert "applegpu_g15s, 64.0 GiB" in found["metal"]
    assert found["memory"].startswith("48.0 GiB")
    assert found["bfloat16"] == "native" and "nothing measured" in found["kernels"]


def test_verdicts_are_measured_shown_counted_and_deleted(
    metal, file, monkeypatch, capsys
):
    kernels.show()
    assert "--model NAME" in capsys.readouterr().out
    stub_choice(monkeypatch, "matmul_fast")
    kernels.measure("tiny", None)
    out, err = capsys.readouterr()
    assert "Measuring kernels" in err and "matmul_fast" in out
    row = (
        r"matmul 512x192, bfloat16 rows 16 \W+ matmul_fast \W+ as planned \W+ stock 2.5"
    )
    assert re.search(row, out)
    assert "attention" in out and str(file) in out
    (kept,) = json.loads(file.read_text()).values()
    assert report.chosen_kernels() == f"matmul_fast {len(kept)}"
    stub_choice(monkeypatch, STOCK)
    kernels.measure("tiny", None)
    assert "matmul_fast" not in capsys.readouterr().out
    kernels.clear()
    assert "Deleted" in capsys.readouterr().out and not Verdicts("", file).all()


def test_a_load_measures_once(metal, file, monkeypatch):
    stub_choice(monkeypatch, STOCK)
    notices = []
    load("tiny", notice=notices.append)
    load("tiny", notice=notices.append)
    load("tiny", kernels="off", notice=notices.append)
    # Target and drafter, once.
    assert sum("Measuring kernels" in line for line in notices) == 2
    assert sum("Measuring" in line for line in notices) <= 3  # and the speed of passes


def test_options_of_kernels_that_exclude_each_other():
    for arguments in (("--check", "--clear"), ("--draft", "tiny"), ("--quantize", "4")):
        run = program("kernels", *arguments)
        assert run.returncode == 2 and run.stderr.startswith("dflash-mlx: ")


def test_kernel_modes():
    assert kernel_mode("auto", False) == "auto" and kernel_mode("off", False) == "off"
    assert kernel_mode("auto", True) == kernel_mode("exact", True) == "exact"
    with pytest.raises(OptionError, match="--exact and --kernels off"):
        kernel_mode("off", True)
    with pytest.raises(OptionError, match="--kernels must be"):
        load("tiny", kernels="fast")
    run = program("generate", "Hi", "--kernels", "fast")
    assert run.returncode == 2 and "--kernels must be" in run.stderr


@pytest.mark.slow
def test_exact_refuses_caches_that_change_the_bits():
    pair, _ = load("tiny", kernels="exact")
    from dflash_mlx import decode
    from dflash_mlx.types import KVBits

    with pytest.raises(OptionError, match="max_kv_size and exact"):
        next(decode(pair, [1, 2, 3], max_kv_size=64))
    with pytest.raises(OptionError, match="kv_bits and exact"):
        next(decode(pair, [1, 2, 3], kv=KVBits(4, 32, 0)))


@pytest.mark.parametrize("rows", (2, 5, 16))
def test_exact_is_refused_where_rows_depend_on_their_block(monkeypatch, rows):
    from dflash_mlx.tuning import kernels

    pair, _ = load("tiny")
    stock = type(pair.target).verify

    def off(target, tokens, cache, taps=()):
        logits, *rest = stock(target, tokens, cache, taps)
        return logits + 1e-3 * (tokens.shape[1] == rows), *rest

    monkeypatch.setattr(type(pair.target), "verify", off)
    with pytest.raises(UnsupportedError, match=f"{rows} rows together"):
        kernels.install_kernels(pair, "exact")


@pytest.mark.slow
def test_verify_with_exact_compares_bits():
    run = program("verify", "--exact", "--max-tokens", "40")
    assert "equal bit for bit" in run.stdout and "not equal" not in run.stdout


def examine_only(monkeypatch, *suspects):
    """Let `check` examine these kernels only."""
    monkeypatch.setattr(check, "KERNELS", {kernel.name: kernel for kernel in suspects})
    monkeypatch.setattr(check, "OPERATIONS", ())
    monkeypatch.setattr(check, "BLOCK", replace(BLOCK, cases=lambda: iter(())))


def test_the_report_distinguishes_right_and_wrong_kernels(metal, monkeypatch, capsys):
    examine_only(monkeypatch, doubling())
    assert kernels.report() and "Every kernel is correct." in capsys.readouterr().out
    calls = iter(range(99))
    for launch, what in (
        (lambda x: 2 * x + 1, "off by 1"),
        (lambda x: 2 * x + 5e-7 * (next(calls) % 2), "two launches differ"),
        (raising(RuntimeError("a:1:2: error: no such name")), "error: no such name"),
    ):
        examine_only(monkeypatch, doubling(), doubling("suspect", launch))
        assert not kernels.report()
        output = capsys.readouterr().out
        assert "A KERNEL IS WRONG" in output and what in output


def test_a_row_that_depends_on_its_block_is_reported():
    dependent = doubling(launch=lambda x: 2 * x + x[:, -1:].sum())
    case = {"x": mx.arange(32.0).reshape(1, 4, 8)}
    assert "row 0 of 4" in check.row_dependence(operation(dependent), case)
    assert check.row_dependence(operation(doubling()), case) == ""
    assert check.difference_from_mlx(operation(dependent), case)
    assert not check.difference_from_mlx(operation(doubling()), case)


@pytest.mark.slow
def test_real_kernels_pass_the_report(metal, monkeypatch, capsys):
    suspects = (gated_delta_block.REWIND, block_matmul.DENSE_EXACT)
    monkeypatch.setattr(check, "KERNELS", {kernel.name: kernel for kernel in suspects})
    monkeypatch.setattr(check, "OPERATIONS", (MATMUL,))
    with emulator.using(seeds=(0,), checks=False):
        assert kernels.report()
    output = capsys.readouterr().out
    assert output.count("| yes |") == 6 and "rounds as MLX does" in output
