"""inspect and convert: wrong readings of a config are found and corrected."""

import json
import shutil

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from typer.testing import CliRunner

from dflash_mlx import load, load_drafter
from dflash_mlx.bench import probe
from dflash_mlx.cli import app
from dflash_mlx.convert import Changes, convert
from dflash_mlx.errors import OptionError
from dflash_mlx.hub.find import TINY_FOLDER, folder_of_drafter
from dflash_mlx.models.drafters import read_config, save_folder
from tests.equipment.tiny import make_drafter

PROMPTS = ("What is 48 + 76?", "Write the 7 times table up to 10.")
PLANTS = {
    "taps": ({"target_layer_ids": [2, 4, 5]}, {}, "taps -1"),
    "slot": ({}, {"sample_from_anchor": True}, "the anchor's slot does not predict"),
    "both": (
        {"target_layer_ids": [0, 2, 3]},
        {"sample_from_anchor": True},
        "the anchor's slot does not predict, taps +1",
    ),
}


def run(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def planted(folder, name):
    """A copy of the embedded drafter whose config is wrong."""
    nested, root, _ = PLANTS[name]
    shutil.copytree(TINY_FOLDER / "drafter", folder)
    config = json.loads((folder / "config.json").read_text())
    config |= root
    config["dflash_config"] |= nested
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        n if n == "both" else pytest.param(n, marks=pytest.mark.full("probe"))
        for n in PLANTS
    ],
)
def test_a_planted_wrong_reading_is_found_and_corrected(name, tmp_path):
    folder, out = planted(tmp_path / "wrong", name), tmp_path / "right"
    target, tokenizer = load("tiny", "none")
    trials = probe.probe(folder, target, tokenizer, PROMPTS, 32)
    best = probe.best_trial(trials)
    assert trials[0].name == "as read" and best.name == PLANTS[name][2]
    # The printed command restores the embedded drafter.
    assert run("convert", folder, "--out", out, *best.options.split()).exit_code == 0
    assert read_config(out) == read_config(TINY_FOLDER / "drafter")


@pytest.mark.slow
def test_taps_beyond_the_target_are_a_reading_too(tmp_path):
    """Taps that are off by one and out of range do not become the right reading."""
    folder = planted(tmp_path / "wrong", "taps")
    config = json.loads((folder / "config.json").read_text())
    config["dflash_config"]["target_layer_ids"] = [2, 4, 6]
    (folder / "config.json").write_text(json.dumps(config))
    target, tokenizer = load("tiny", "none")
    trials = probe.probe(folder, target, tokenizer, PROMPTS, 32)
    assert "not layers of the target" in trials[0].name
    assert probe.best_trial(trials).name == "taps -1"


def test_a_drafter_of_another_target_is_no_reading(tmp_path):
    folder = tmp_path / "other"
    save_folder(make_drafter(), folder)
    for command in (["inspect", folder], ["convert", folder, "--out", tmp_path / "o"]):
        result = run(*command, "--model", "tiny")
        assert result.exit_code == 1 and "hidden_size is 64, not 192" in result.stderr
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
def test_the_right_reading_is_kept():
    target, tokenizer = load("tiny", "none")
    trials = probe.probe(TINY_FOLDER / "drafter", target, tokenizer, PROMPTS, 32)
    assert probe.best_trial(trials) is trials[0]
    names = {trial.name for trial in trials}
    assert {"taps +1", "taps -1", "causal in the block"} < names


def test_taps_outside_the_target_are_not_tried():
    config = read_config(TINY_FOLDER / "drafter")  # taps 1, 3, 4
    assert all("+1" not in trial.name for trial in probe.readings(config, 5))


def test_inspect_reports_every_field():
    result = run("inspect", "tiny", "--json")
    report = json.loads(result.stdout)
    assert report["packaging"] == "z-lab DFlash" and report["fits"] == ["tiny"]
    arrays = [array for _, array in tree_flatten(load_drafter("tiny").parameters())]
    assert report["parameters"] == sum(array.size for array in arrays)
    assert report["bytes"]["16"] == sum(array.nbytes for array in arrays)
    assert any("does not predict" in note for note in report["notes"])
    text = run("inspect", "tiny", "--model", "tiny", "-p", PROMPTS[1], "-m", 16).stdout
    assert "as read" in text and "the right one" in text


def test_reported_sizes_equal_the_files(tmp_path):
    report = json.loads(run("inspect", "tiny", "--json").stdout)
    for bits in (4, 8):
        convert(TINY_FOLDER / "drafter", tmp_path / str(bits), Changes(bits))
        size = (tmp_path / str(bits) / "model.safetensors").stat().st_size
        assert abs(size - report["bytes"][str(bits)]) < 8000  # the header's


@pytest.mark.parametrize("bits", (4, 8))
def test_quantized_drafters_are_saved_as_they_are_loaded(bits, tmp_path):
    convert(TINY_FOLDER / "drafter", tmp_path / "packed", Changes(bits), "tiny")
    again = dict(tree_flatten(load_drafter(tmp_path / "packed").parameters()))
    there = dict(tree_flatten(load_drafter("tiny", quantize=bits).parameters()))
    assert again.keys() == there.keys()
    assert all(mx.array_equal(again[name], there[name]) for name in again)
    config = json.loads((tmp_path / "packed" / "config.json").read_text())
    assert config["converted_from"] == "tiny"
    assert config["quantization"]["bits"] == bits


@pytest.mark.slow
def test_the_embedded_dflash2_head_drafts():
    """Trained from the DFlash head in 600 updates and packed to 3 bits, a third of its
    bytes, it drafts as well."""
    report = json.loads(run("inspect", "tiny-dflash2", "--json").stdout)
    assert report["packaging"] == "z-lab DFlash 2" and report["parameters"] > 750_000
    assert "linear layers are packed to 3 bits" in report["notes"]
    pair, tokenizer = load("tiny", "tiny-dflash2")
    assert probe.measure(pair, tokenizer, PROMPTS, 64).tokens_per_round > 5.5
    files = [file for file in TINY_FOLDER.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 6_000_000


def test_what_is_packed_is_not_packed_again(tmp_path):
    with pytest.raises(OptionError, match="already quantized to 3 bits"):
        convert(TINY_FOLDER / "dflash2", tmp_path / "out", Changes(8))
    with pytest.raises(OptionError, match="already quantized"):
        load_drafter("tiny-dflash2", quantize=4)
    assert not list(tmp_path.iterdir())


def test_existing_files_of_the_user_are_kept(tmp_path):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "mine").write_text("keep")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for out in (tmp_path / "out", tmp_path / "link"):
        convert(TINY_FOLDER / "drafter", out)
        assert load_drafter(out).config == read_config(TINY_FOLDER / "drafter")
    assert (tmp_path / "out.partial" / "mine").read_text() == "keep"
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"out", "out.partial", "real", "link"}


@pytest.mark.slow
def test_before_and_after_are_measured(tmp_path):
    result = run(
        *("convert", "tiny", "--out", tmp_path / "out", "--bits", 4),
        *("--model", "tiny", "-p", PROMPTS[0], "-m", 20),
    )
    assert result.stderr.count("tokens per round") == 2
    plain = run("convert", "tiny", "--out", tmp_path / "other", "--dtype", "float16")
    assert "tokens per round" not in plain.stderr and plain.exit_code == 0
    assert load_drafter(tmp_path / "other").fc.weight.dtype == mx.float16


def test_bad_requests_write_nothing(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    for args, word in (
        (["tiny", "--out", tmp_path / "full"], "already exists"),
        (["tiny", "--out", tmp_path / "a", "--bits", 5], "4 or 8"),
        (["tiny", "--out", tmp_path / "a", "--dtype", "int8"], "bfloat16"),
        (["tiny", "--out", tmp_path / "a", "--tap-shift", -2], "tap_shift"),
        (["nowhere", "--out", tmp_path / "a"], "nowhere"),
    ):
        result = run("convert", *args)
        assert result.exit_code in (1, 2) and word in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
    with pytest.raises(OptionError):
        convert(folder_of_drafter("tiny"), tmp_path / "full")
