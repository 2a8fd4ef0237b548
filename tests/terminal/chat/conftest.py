"""Loaded models and a terminal for the tests of the chat."""

from importlib import import_module
from pathlib import Path

import pytest

from dflash_mlx import Pair, load
from tests.equipment import architectures
from tests.equipment.random_weights import randomize_weights
from tests.equipment.teletype import Teletype
from tests.equipment.turns import TEMPLATES, make_tokenizer


@pytest.fixture(scope="module")
def tiny():
    """The embedded pair and its tokenizer."""
    return load("tiny")


@pytest.fixture(scope="module", params=("tiny", "qwen3_next", "gemma3_text"))
def any_kind(request, tiny):
    """Models with caches of different kinds, with the embedded tokenizer."""
    if request.param == "tiny":
        return tiny
    return Pair.of(random_model(request.param)), tiny[1]


def random_model(family):
    """A random model of a family, with the embedded tokenizer's vocabulary."""
    config = architectures.config_of(family) | {"vocab_size": 512}
    module = import_module(f"mlx_lm.models.{family}")
    model = module.Model(module.ModelArgs.from_dict(config))
    return randomize_weights(model, "float32", **architectures.SPREAD.get(family, {}))


@pytest.fixture(scope="module")
def thinker():
    """A random model whose prompts end with the opening tag of its reasoning."""
    pair = Pair.of(architectures.build("qwen3"))
    return pair, make_tokenizer(TEMPLATES["thinking"])


@pytest.fixture
def home(tmp_path):
    """A home folder for the test, with the measurements of the test session."""
    (tmp_path / ".cache").symlink_to(Path.home() / ".cache")
    return tmp_path


@pytest.fixture
def chat(home):
    def open_chat(*arguments, script=None, env=None, **more):
        program = ("-m", "dflash_mlx", "chat", "--model", "tiny", *arguments)
        program = ("-c", script) if script else program
        env = {"HOME": str(home), "NO_COLOR": None} | (env or {})
        tty = Teletype(*program, env=env, cwd=home, **more)
        tty.wait(tty.ready)
        return tty

    return open_chat
