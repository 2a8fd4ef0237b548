"""models: sizes, what fits, what is in the cache, and how it is removed."""

import os
import shutil
import subprocess
import sys

import pytest

from dflash_mlx import device
from dflash_mlx.errors import MissingFilesError
from dflash_mlx.hub import registry
from dflash_mlx.hub.find import TINY_FOLDER
from dflash_mlx.terminal import models
from dflash_mlx.terminal.chat import menu
from tests.equipment.teletype import Teletype

GIB = 2**30


def known(alias):
    return next(each for each in models.known_models() if each.alias == alias)


@pytest.mark.parametrize(
    ("alias", "download", "memory"),
    [
        # As in the README's table, from the sizes of the model's matrices.
        ("qwen3-4b", "3.1 GiB", "4.2 GiB"),
        ("qwen3-8b", "5.9 GiB", "7.0 GiB"),
        # From the number in the name.
        ("qwen3.5-27b", "14.1 GiB+", "14.1 GiB+"),
        ("lfm2.5-8b", "7.9 GiB+", "7.9 GiB+"),
        ("gpt-oss-20b", "10.5 GiB+", "10.5 GiB+"),
        ("qwen3-coder-30b", "15.7 GiB+", "15.7 GiB+"),
        ("qwen3-coder-next", "not known", "not known"),
    ],
)
def test_sizes(alias, download, memory):
    assert (known(alias).download_size, known(alias).memory) == (download, memory)


def test_what_fits(monkeypatch):
    monkeypatch.setattr(device, "memory_bytes", lambda: 12 * GIB)
    fits = {each.alias: each.fits for each in models.known_models()}
    assert fits["qwen3-8b"] and fits["tiny"] and not fits["qwen3.5-27b"]
    assert fits["qwen3-coder-next"] is None


@pytest.mark.slow
@pytest.mark.parametrize("columns", [60, 80])
def test_no_alias_is_cut_on_a_terminal(columns):
    """And the sizes are complete; names of drafters are only folded."""
    arguments = ("-m", "dflash_mlx", "models")
    with Teletype(*arguments, columns=columns, rows=60) as tty:
        assert tty.end() == 0
        lines = tty.lines()
    heads = [line.split()[0] for line in lines if line.strip()]
    assert {entry.alias for entry in registry.targets()} <= set(heads)
    row = next(line for line in lines if line.startswith("qwen3-8b "))
    assert row.split()[1:3] == ["5.9", "GiB"] and "\u2026" not in "".join(lines)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of the Hub with one model of the registry, and another repository."""
    for name in ("mlx-community--Qwen3-4B-4bit", "someone--else"):
        folder = tmp_path / "hub" / f"models--{name}"
        snapshot = folder / "snapshots" / ("0" * 40)
        snapshot.mkdir(parents=True)
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text("0" * 40)
        for file in ("config.json", "model.safetensors", "tokenizer.json"):
            shutil.copy(TINY_FOLDER / file, snapshot)
    return tmp_path


def run(home, *arguments, stdin=None):
    return subprocess.run(
        [sys.executable, "-m", "dflash_mlx", "models", *arguments],
        env=dict(os.environ, HF_HOME=str(home)),
        stdin=stdin or subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


@pytest.mark.full("programs")
def test_downloaded_models_are_listed_and_removed_after_a_question(cache):
    listed = run(cache, "--downloaded")
    assert listed.stdout.splitlines()[1].split()[0] == "qwen3-4b"
    assert "qwen3-8b" not in listed.stdout.split("`")[0]
    row = next(line for line in listed.stdout.splitlines() if "qwen3-4b" in line)
    assert row.rstrip().endswith("model")
    unasked = run(cache, "--remove", "qwen3-4b")
    assert unasked.returncode == 2 and "Add --yes" in unasked.stderr
    folder = cache / "hub" / "models--mlx-community--Qwen3-4B-4bit"
    arguments = ("-m", "dflash_mlx", "models", "--remove", "qwen3-4b")
    with Teletype(*arguments, env={"HF_HOME": str(cache)}) as tty:
        tty.wait("Remove mlx-community/Qwen3-4B-4bit (")
        tty.wait("[y/N]")
        tty.type("\r")
        tty.wait("Nothing was removed.")
        assert tty.end() == 0 and folder.exists()
    removed = run(cache, "--remove", "qwen3-4b", "--yes")
    assert removed.returncode == 0 and "freed" in removed.stderr
    assert not folder.exists() and (cache / "hub" / "models--someone--else").exists()
    again = run(cache, "--remove", "qwen3-4b", "--yes")
    assert again.returncode == 1 and "Nothing of qwen3-4b is downloaded" in again.stderr
    assert "Nothing is downloaded" in run(cache, "--downloaded").stdout


def test_a_hub_id_without_an_alias_has_no_drafters_to_show():
    with pytest.raises(MissingFilesError, match="is not an alias"):
        models.show("someone/else")


def test_the_menu_offers_what_fits_and_the_toy(monkeypatch, capsys):
    monkeypatch.setattr(device, "memory_bytes", lambda: 12 * GIB)
    lines = iter(["99\n", "2\n"])
    chosen = menu.choose_model(lambda: next(lines))
    shown = capsys.readouterr().err
    offered = [line.split()[1] for line in shown.splitlines() if line[:2] == "  "]
    assert chosen == offered[1] and offered[-1] == "tiny" and "toy" in shown
    assert len(offered) <= menu.LENGTH + 1 and "qwen3.5-27b" not in offered
    assert "Choose a number from 1 to" in shown
    assert menu.choose_model(lambda: "\n") == "tiny"  # nothing is downloaded
    assert menu.choose_model(lambda: "qwen3-8b\n") == "qwen3-8b"
    assert menu.choose_model(lambda: "") is None


def test_the_menu_offers_no_model_that_decodes_plainly(monkeypatch):
    monkeypatch.setattr(device, "memory_bytes", lambda: 1000 * GIB)
    monkeypatch.setattr(menu, "LENGTH", 100)
    offered = [each.alias for each in menu.offered_models(models.known_models())]
    assert "qwen3.5-397b" in offered and "nanbeige4.2-3b" not in offered


def test_the_menu_has_models_that_are_here_first(cache, monkeypatch, capsys):
    from dflash_mlx.hub import download

    folder = cache / "hub" / "models--mlx-community--Qwen3-4B-4bit" / "snapshots"
    here = {"mlx-community/Qwen3-4B-4bit": folder / ("0" * 40)}
    monkeypatch.setattr(download, "cached_folder", lambda name, *_: here.get(name))
    monkeypatch.setattr(device, "memory_bytes", lambda: 24 * GIB)
    assert menu.choose_model(lambda: "\n") == "qwen3-4b"
    first = capsys.readouterr().err.splitlines()[1]
    assert first.split()[1] == "qwen3-4b" and first.endswith("downloaded")


def test_no_menu_without_a_terminal():
    assert not menu.wanted()
