"""DFlash speculative decoding on MLX: the same tokens, several times faster.

    from dflash_mlx import generate, load

    pair, tokenizer = load("tiny")
    print(generate(pair, tokenizer, "Hello!"))

Names are imported on first use, so that importing the package does not import MLX.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what type checkers and editors see
    from .batch_engine import batch_generate
    from .cache.prompt_cache import PromptCache
    from .decoding.loop import decode
    from .engine import generate, stream_generate
    from .errors import DFlashError
    from .loading import load, load_drafter
    from .pair import Pair
    from .responses import GenerationResponse
    from .stats import Stats
    from .text import chat_template
    from .text.grammar import Grammar
    from .types import Round, Sampling

    __version__: str

# Public name -> its module and its name there; None is the module itself.
_PUBLIC = {
    "load": ("loading", "load"),
    "load_drafter": ("loading", "load_drafter"),
    "Pair": ("pair", "Pair"),
    "generate": ("engine", "generate"),
    "stream_generate": ("engine", "stream_generate"),
    "batch_generate": ("batch_engine", "batch_generate"),
    "GenerationResponse": ("responses", "GenerationResponse"),
    "Stats": ("stats", "Stats"),
    "decode": ("decoding.loop", "decode"),
    "Round": ("types", "Round"),
    "Grammar": ("text.grammar", "Grammar"),
    "Sampling": ("types", "Sampling"),
    "PromptCache": ("cache.prompt_cache", "PromptCache"),
    "chat_template": ("text.chat_template", None),
    "DFlashError": ("errors", "DFlashError"),
}

__all__ = [
    "DFlashError",
    "GenerationResponse",
    "Grammar",
    "Pair",
    "PromptCache",
    "Round",
    "Sampling",
    "Stats",
    "batch_generate",
    "chat_template",
    "decode",
    "generate",
    "load",
    "load_drafter",
    "stream_generate",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("dflash-mlx")
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home, attribute = _PUBLIC[name]
    module = import_module(f".{home}", __name__)
    globals()[name] = getattr(module, attribute) if attribute else module
    return globals()[name]


def __dir__() -> list[str]:
    return __all__
