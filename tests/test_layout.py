"""Facts about the package itself: imports point one way, help is instant."""

import ast
import resource
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import dflash_mlx

ROOT = Path(dflash_mlx.__file__).parent
# Folders and root modules of the package, from the bottom row up. A file imports from
# its own row's folder, and from rows below.
ROWS = (
    ("errors",),
    ("types",),
    ("device", "rebind", "stats", "store", "token_array"),
    ("cache", "hub", "metal", "speculation"),
    ("models", "text"),
    ("pair", "target_files"),
    ("decoding",),
    ("tuning",),
    ("loading", "responses"),
    ("engine",),
    ("batch_engine",),
    ("convert",),
    ("train",),
    ("bench",),
    ("server",),
    ("terminal",),
    ("cli",),
    ("__main__",),
)
ROW = {name: i for i, row in enumerate(ROWS) for name in row}


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
        name = file.relative_to(ROOT).with_suffix("").parts[0]
        if name == "__init__":
            continue
        for other in imports(file):
            if other and other[0] != name:
                allowed = ROW[other[0]] < ROW[name]
                assert allowed, f"{file} imports {other}"


def module_file(path: Path) -> Path | None:
    """The file of a module or of a package, given without suffix."""
    files = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in files if file.is_file()), None)


def imported_files(file: Path) -> set[Path]:
    """Files of the package that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            parts = (node.module or "").split(".")
            module = file.parents[node.level - 1].joinpath(*parts)
            for alias in node.names:
                found.add(module_file(module / alias.name) or module_file(module))
    return found - {file}


def test_no_files_import_each_other_in_a_cycle():
    graph = {file: imported_files(file) for file in ROOT.rglob("*.py")}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the files


def test_every_module_imports():
    """Also those that only developers run: a recipe that fails at import is lost."""
    for file in (*ROOT.rglob("*.py"), *(ROOT.parent / "benchmarks").rglob("*.py")):
        name = ".".join(file.relative_to(ROOT.parent).with_suffix("").parts)
        if not name.endswith("__main__"):
            import_module(name.removesuffix(".__init__"))


def test_targets_and_drafters_never_meet():
    for side, other in (("targets", "drafters"), ("drafters", "targets")):
        for file in (ROOT / "models" / side).rglob("*.py"):
            assert all(other not in name for name in imports(file)), file


def test_models_know_no_samplers_and_the_loop_no_text():
    for file in (ROOT / "models").rglob("*.py"):
        assert all(name[0] != "decoding" for name in imports(file)), file
    for file in (ROOT / "decoding").rglob("*.py"):
        source = file.read_text()
        assert "import time" not in source and "tokenizer_utils" not in source


def test_importing_the_package_or_its_cli_loads_nothing_heavy():
    code = "import sys, dflash_mlx, dflash_mlx.cli; print('mlx.core' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.stdout.strip() == "False", out.stderr


@pytest.mark.slow
def test_help_is_instant():
    command = [sys.executable, "-m", "dflash_mlx", "generate", "--help"]

    def spent(command):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # Half a second of CPU time on a machine that imports typer and rich in 0.14 s, and
    # in proportion on others. The first run compiles, so the least of five counts.
    libraries = [sys.executable, "-c", "import typer, rich.console, rich.markdown"]
    times = [(spent(command), spent(libraries)) for _ in range(5)]
    assert min(own for own, _ in times) < 3.5 * min(theirs for _, theirs in times)


def test_public_names_resolve():
    for name in dflash_mlx.__all__:
        assert getattr(dflash_mlx, name) is not None
    from dflash_mlx import chat_template, decode
    from dflash_mlx.decoding import loop
    from dflash_mlx.text.chat_template import marks

    assert decode is loop.decode and chat_template.marks is marks
