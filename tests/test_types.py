"""What a type checker says of a user's script."""

import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import dflash_mlx

ROOT = Path(__file__).parents[1]
TY = Path(sysconfig.get_path("scripts")) / "ty"
GOOD = """
import dflash_mlx
from dflash_mlx import Pair, PromptCache, Sampling, decode, generate, load
from dflash_mlx import chat_template, stream_generate

pair, tokenizer = load("tiny", draft=None, kernels="off")
text: str = generate(pair, tokenizer, "Hello!", max_tokens=8)
cache = PromptCache(pair)
messages = [{"role": "user", "content": "Hello!"}]
marks: tuple[int, int] = chat_template.marks(tokenizer, messages)
for response in stream_generate(pair, tokenizer, [1, 2], sampling=Sampling(temp=0.5)):
    count: int = response.generation_tokens
    kept: float = response.stats.tokens_per_round
for round in decode(pair, [1, 2], max_tokens=4, prompt_cache=cache):
    tokens: list[int] = round.tokens
alone: Pair = Pair.of(pair.model)
version: str = dflash_mlx.__version__
"""
BAD = {
    "load(123)": "invalid-argument-type",
    "load('tiny', nonsense=1)": "unknown-argument",
    "number: int = generate(*load('tiny'), 'Hello!')": "invalid-assignment",
    "Sampling(temp='hot')": "invalid-argument-type",
    "PromptCache('tiny')": "invalid-argument-type",
    "next(iter(stream_generate(*load('tiny'), 'a'))).nothing": "missing-attribute",
}
IMPORTS = (
    "from dflash_mlx import PromptCache, Sampling, generate, load, stream_generate\n"
)


def check(script, tmp_path):
    """A type checker's output; empty if it finds nothing."""
    file = tmp_path / "script.py"
    file.write_text(script)
    command = [TY, "check", "--python", sys.prefix, "--project", ROOT, file]
    run = subprocess.run(
        [*map(str, command), "--output-format", "concise"],
        capture_output=True,
        text=True,
    )
    assert run.returncode in (0, 1), run.stderr
    return run.stdout if run.returncode else ""


def test_a_right_script_has_no_error(tmp_path):
    assert not check(GOOD, tmp_path)


def test_mistakes_are_found(tmp_path):
    found = check(IMPORTS + "\n".join(BAD), tmp_path).splitlines()
    first = IMPORTS.count("\n") + 1
    for number, (line, error) in enumerate(BAD.items(), first):
        assert any(f":{number}:" in each and error in each for each in found), line


def test_type_checkers_see_every_public_name(tmp_path):
    names = dflash_mlx.__all__
    assert set(names) == set(dflash_mlx._PUBLIC)
    script = f"from dflash_mlx import {', '.join(names)}\n"
    revealed = check(script + "".join(f"reveal_type({n})\n" for n in names), tmp_path)
    assert revealed.count("Revealed type") == len(names)
    assert not re.search("`(Any|Unknown)`", revealed)


def test_the_version():
    assert dflash_mlx.__version__ == "0.1.0"
