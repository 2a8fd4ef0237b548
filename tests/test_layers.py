"""Facts about the package itself: imports point one way, help is instant."""

import ast
import resource
import subprocess
import sys
from pathlib import Path

import dflash_mlx

ROOT = Path(dflash_mlx.__file__).parent
# A module may import from its own row and the rows below it.
ROWS = {
    "errors": 0,
    "types": 0,
    "registry": 0,
    "families": 0,
    "device": 0,
    "hub": 0,
    "rebind": 0,
    "store": 0,
    "sampling": 1,
    "kv": 1,
    "rollback": 1,
    "cache_state": 1,
    "text": 1,
    "reasoning": 1,
    "acceptance": 1,
    "costs": 1,
    "lookup": 1,
    "stats": 1,
    "width": 1,
    "metal": 1,
    "models": 2,
    "pair": 3,
    "loop": 3,
    "decoding": 3,
    "steering": 3,
    "calibrate": 3,
    "equip": 3,
    "activation": 3,
    "loading": 3,
    "prompt_cache": 3,
    "chat_template": 3,
    "snapshots": 3,
    "fingerprint": 3,
    "cache_file": 3,
    "engine": 4,
    "convert": 4,
    "bench": 5,
    "train": 5,
    "terminal": 6,
    "cli": 7,
    "__main__": 8,
}


def imports(file: Path):
    """Package modules that a file imports, as paths of names."""
    here = ("dflash_mlx", *file.relative_to(ROOT).with_suffix("").parts)
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - node.level]
            full = (*base, *(node.module or "").split(".")) if node.module else base
            names = [full] if node.module else [(*full, a.name) for a in node.names]
            yield from (name[1:] for name in names)


def test_imports_go_down_the_rows():
    for file in ROOT.rglob("*.py"):
        name = file.relative_to(ROOT).with_suffix("").parts
        if name == ("__init__",):
            continue
        for other in imports(file):
            if other:
                assert ROWS[other[0]] <= ROWS[name[0]], f"{file} imports {other}"


def test_targets_and_drafters_never_meet():
    for side, other in (("targets", "drafters"), ("drafters", "targets")):
        for file in (ROOT / "models" / side).rglob("*.py"):
            assert all(other not in name for name in imports(file)), file


def test_models_know_no_samplers_and_the_loop_no_text():
    for file in (ROOT / "models").rglob("*.py"):
        assert all(name[0] != "sampling" for name in imports(file)), file
    source = (ROOT / "loop.py").read_text()
    assert "import time" not in source and "tokenizer_utils" not in source


def test_importing_the_package_or_its_cli_loads_nothing_heavy():
    code = "import sys, dflash_mlx, dflash_mlx.cli; print('mlx.core' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.stdout.strip() == "False", out.stderr


def test_help_is_instant():
    command = [sys.executable, "-m", "dflash_mlx", "generate", "--help"]

    def spent():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # Half a second of its own; what other programs take, or take from it, does not
    # count, so the least of some runs does. The first one compiles.
    assert min(spent() for _ in range(5)) < 0.5


def test_public_names_resolve():
    for name in dflash_mlx.__all__:
        assert getattr(dflash_mlx, name) is not None
    from dflash_mlx import decode, loop

    assert decode is loop.decode
