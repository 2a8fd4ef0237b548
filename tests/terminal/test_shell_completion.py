"""Shell completion: the words offered, without loading anything heavy."""

import os
import subprocess
import sys

import pytest

from dflash_mlx.bench import shapes, suites
from dflash_mlx.bench.data_sets import DATA_SETS
from dflash_mlx.bench.settings import BUILTIN
from dflash_mlx.hub import registry
from dflash_mlx.metal.dispatch import check_mode
from dflash_mlx.models.drafters.fields import MARKOV
from dflash_mlx.terminal import shell_completion
from dflash_mlx.train.drafter_config import CONFIGS
from dflash_mlx.train.options import KINDS, MARKOV_HEADS

CODE = """
import sys
sys.argv[0] = "dflash-mlx"
from dflash_mlx.cli import main
try:
    main()
finally:
    print("heavy" if "mlx.core" in sys.modules else "light", file=sys.stderr)
"""


def complete(line: str) -> list[str]:
    """The words that bash offers for the last word of a line."""
    env = dict(
        os.environ,
        _DFLASH_MLX_COMPLETE="complete_bash",
        COMP_WORDS=line,
        COMP_CWORD=str(len(line.split(" ")) - 1),
    )
    run = subprocess.run(
        [sys.executable, "-c", CODE], env=env, capture_output=True, text=True
    )
    assert run.stderr.strip() == "light", run.stderr
    return run.stdout.split()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("dflash-mlx gen", "generate"),
        ("dflash-mlx chat --model qwen3-1", "qwen3-14b"),
        ("dflash-mlx generate --draft z-lab/Qwen3-8B", "z-lab/Qwen3-8B-DFlash-b16"),
        ("dflash-mlx benchmark --shape qwen3-0", "qwen3-0.6b"),
        ("dflash-mlx train --kind dflash2", "dflash2"),
        ("dflash-mlx train --markov-head g", "gated"),
        ("dflash-mlx generate --kernels ex", "exact"),
        ("dflash-mlx inspect qwen3-14", "qwen3-14b"),
        ("dflash-mlx generate --num-dr", "--num-draft-tokens"),
    ],
)
def test_a_shell_is_offered(line, offered):
    assert complete(line) == [offered]


def test_completed_words_equal_the_names_in_other_modules():
    assert [alias for alias, _ in shell_completion.models("")] == [
        entry.alias for entry in registry.targets()
    ]
    assert set(shell_completion.shapes("")) == set(shapes.named_shapes())
    assert tuple(shell_completion.classes("")) == suites.classes()
    assert set(shell_completion.SUITES) == {BUILTIN, *DATA_SETS}
    assert set(KINDS) == set(CONFIGS) and MARKOV_HEADS == MARKOV
    for mode in shell_completion.KERNELS:
        check_mode(mode)


def test_drafters_that_do_not_run_are_not_offered():
    offered = {name for name, _ in shell_completion.drafters("")}
    every = [d for entry in registry.targets() for d in entry.drafters]
    assert {d.repo for d in every if d.runs} | {"none"} == offered
    assert any(not d.runs for d in every)
