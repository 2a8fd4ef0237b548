"""Verdicts: their file, their keys, and what they depend on."""

import json
from concurrent.futures import ThreadPoolExecutor

import mlx.core as mx
import pytest

from dflash_mlx.metal import kernel
from dflash_mlx.metal import verdicts as verdicts_module
from dflash_mlx.metal.attention import AttentionShape
from dflash_mlx.metal.delta_rule import DELTA, DeltaShape
from dflash_mlx.metal.dispatch import Dispatch
from dflash_mlx.metal.layers import ATTENTION, MATMUL, QUANTIZED
from dflash_mlx.metal.linear import MatmulShape, QuantizedShape
from dflash_mlx.metal.operation import MEASURED_ROWS, Request
from dflash_mlx.metal.verdicts import STOCK, Verdict, Verdicts, machine
from tests.metal.doubling import doubling, request, verdicts


def test_verdicts_are_stored_by_machine(tmp_path):
    stored = verdicts(tmp_path)
    stored.put("a", Verdict("doubling", "faster", {"stock": 2.0}))
    verdicts(tmp_path, "other").put("a", Verdict(STOCK, "slower"))
    assert verdicts(tmp_path).all() == {
        "a": Verdict("doubling", "faster", {STOCK: 2.0})
    }
    assert stored.clear() == 1 and stored.all() == {} and stored.clear() == 0
    assert verdicts(tmp_path, "other").all() == {"a": Verdict(STOCK, "slower")}


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", '{"chip": 3}', '{"chip": {"a": {"b": 1}}}'),
        '{"chip": {"a": {"choice": ["b"], "why": ""}}}',
    ],
)
def test_a_broken_file_counts_as_empty(tmp_path, text):
    stored = verdicts(tmp_path)
    stored.store.file.parent.mkdir()
    stored.store.file.write_text(text)
    assert stored.all() == {}
    stored.put("a", Verdict(STOCK, ""))
    assert stored.all() == {"a": Verdict(STOCK, "")}


def test_a_file_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "deep").write_text("a file, not a folder")
    stored = verdicts(tmp_path)
    stored.put("a", Verdict(STOCK, ""))
    assert stored.all() == {}


def test_sources_are_ascii():
    """MLX passes them through an encoder that refuses everything else."""
    for file in (*kernel.FOLDER.glob("*.metal"), *kernel.FOLDER.glob("*.py")):
        assert file.read_bytes().isascii(), file


def test_sources_are_passed_without_comments():
    """MLX handles the whole text at every call, 325 times in a pass."""
    for file in kernel.FOLDER.glob("*.metal"):
        text = kernel.source(file.stem)
        assert "//" not in text and "\n\n" not in text and "\n " not in text
        code = [line.partition("//")[0] for line in file.read_text().splitlines()]
        assert text.split() == " ".join(code).split()


def test_a_file_system_without_locks_works(tmp_path, monkeypatch):
    def flock(*arguments):
        raise OSError("Operation not supported")

    monkeypatch.setattr("dflash_mlx.store.fcntl.flock", flock)
    stored = verdicts(tmp_path)
    stored.put("a", Verdict(STOCK, ""))
    assert stored.all() == {"a": Verdict(STOCK, "")} and stored.clear() == 1


def test_two_writers_lose_nothing(tmp_path):
    def write(name):
        for n in range(20):
            verdicts(tmp_path).put(f"{name}{n}", Verdict(STOCK, name))

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, "abc"))
    assert len(verdicts(tmp_path).all()) == 60


def test_verdicts_depend_on_chip_system_mlx_and_kernels(metal, monkeypatch):
    before = machine()
    for part in ("Apple M3 Max", "applegpu_g15s", "macOS", mx.__version__):
        assert part in before
    monkeypatch.setattr(verdicts_module, "fingerprint", lambda: "another")
    assert machine() != before


def test_this_machine_has_its_verdicts_in_the_users_file(metal):
    store = Verdicts.of_this_machine().store
    assert store.machine == machine() and store.file == verdicts_module.default_file()


def test_verdicts_are_plain_json(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "dflash_mlx.metal.dispatch.choose_kernel",
        lambda request, rows: Verdict("doubling", "as planned"),
    )
    Dispatch(verdicts=verdicts(tmp_path)).choose_kernels([request(doubling())])
    stored = json.loads(verdicts(tmp_path).store.file.read_text())["chip"]
    assert len(stored) == len(MEASURED_ROWS)
    assert all(entry["choice"] == "doubling" for entry in stored.values())


FLOAT, HALF = mx.float32, mx.float16
STORED = {
    "matmul 512x192, float32 rows 4": (MATMUL, MatmulShape(512, 192, FLOAT, FLOAT)),
    "matmul 512x192, float16 and float32 rows 4": (
        MATMUL,
        MatmulShape(512, 192, HALF, FLOAT),
    ),
    "quantized matmul 32x64 affine, 4 bits in 32, float16 rows 4": (
        QUANTIZED,
        QuantizedShape(32, 64, "affine", 4, 32, HALF, HALF),
    ),
    "attention 8 heads of 64 and 32 on 2, float16 rows 4": (
        ATTENTION,
        AttentionShape(8, 64, 32, 2, HALF, HALF, HALF, False),
    ),
    "attention 8 heads of 64 and 64 on 2, float32 and float16, sinks rows 4": (
        ATTENTION,
        AttentionShape(8, 64, 64, 2, FLOAT, HALF, FLOAT, True),
    ),
    "gated delta rule 4 heads of 128 on 2 of 64, float32 rows 4": (
        DELTA,
        DeltaShape(4, 128, 2, 64, FLOAT, False),
    ),
    "gated delta rule 4 heads of 128 on 2 of 64, float32, gates per element rows 4": (
        DELTA,
        DeltaShape(4, 128, 2, 64, FLOAT, True),
    ),
}


@pytest.mark.parametrize("text", STORED)
def test_a_stored_key_can_be_read(text):
    """Files of verdicts written by earlier versions use these texts."""
    operation, shape = STORED[text]
    assert Request(operation, shape, {}).verdict_key(4) == text
