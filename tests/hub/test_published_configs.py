"""Tiny checkpoints in the published form of known targets: loaded, and decoded."""

import json
import os
import subprocess
import sys

import pytest

from dflash_mlx import Pair, load, stream_generate
from dflash_mlx.hub import registry
from dflash_mlx.hub.folder import weight_bytes
from tests.equipment.hub_server import Hub
from tests.equipment.published_configs import (
    CONFIGS,
    DUPLICATES,
    write_checkpoint,
)
from tests.equipment.scripted import Script

PROMPT = list(range(40, 110))
# Loads in a process of its own, since the Hub's address is read at import.
CODE = """
import json, sys
from dflash_mlx import generate, load
names, prompt = json.loads(sys.argv[1])
for name in names:
    pair, tokenizer = load(name, "none")
    print(json.dumps(generate(pair, tokenizer, prompt, max_tokens=6)))
"""


def test_every_known_target_has_a_form():
    aliases = {entry.alias for entry in registry.targets()} - {registry.TINY}
    assert aliases == {name for name in CONFIGS if " " not in name}


def tokens(pair, tokenizer, **options):
    stream = stream_generate(pair, tokenizer, PROMPT, max_tokens=12, **options)
    return [response.token for response in stream]


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_a_folder_in_the_published_form_decodes_with_drafts(name, tmp_path):
    folder = write_checkpoint(name, tmp_path / "model")
    pair, tokenizer = load(str(folder), "none")
    assert pair.target.context is None or pair.target.context >= 82
    plain = tokens(pair, tokenizer)
    script = Script(PROMPT + plain, [4, 1], block_size=6, vocab=500)
    drafted = Pair.of(pair.model, script, pair.target.config)
    assert tokens(drafted, tokenizer, block_size=6) == plain
    assert drafted.target.numbers["hidden_size"] == 64


@pytest.mark.full("programs")
def test_the_hub_is_needed_once(tmp_path):
    forms = {f"org/{i}": name for i, name in enumerate(CONFIGS)}
    folders = {
        repository: write_checkpoint(name, tmp_path / repository.replace("/", "-"))
        for repository, name in forms.items()
    }

    def answers(endpoint):
        run = subprocess.run(
            [sys.executable, "-c", CODE, json.dumps([list(forms), PROMPT])],
            env=dict(os.environ, HF_ENDPOINT=endpoint, HF_HOME=str(tmp_path / "home")),
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr
        return run.stdout.splitlines()

    with Hub(folders) as hub:
        first = answers(hub.endpoint)
    fetched = [path for path in hub.requests if path.startswith("GET")]
    assert not any(file in path for path in fetched for file in DUPLICATES.values())
    assert len(first) == len(forms)
    assert answers("http://127.0.0.1:9") == first
    (mistral,) = (r for r, name in forms.items() if name in DUPLICATES)
    size = (folders[mistral] / "model.safetensors").stat().st_size
    assert weight_bytes(folders[mistral]) == size
