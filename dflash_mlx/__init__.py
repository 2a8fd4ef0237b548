"""DFlash speculative decoding on MLX: the same words, several times faster.

    from . import load, generate

    pair, tokenizer = load("tiny")
    print(generate(pair, tokenizer, "Hello!"))

Names are resolved on first use, so importing the package loads nothing heavy.
"""

from importlib import import_module

_HOMES = {
    "load": "loading",
    "load_drafter": "loading",
    "Pair": "pair",
    "generate": "engine",
    "stream_generate": "engine",
    "GenerationResponse": "engine",
    "Stats": "stats",
    "decode": "decoding.loop",
    "Round": "types",
    "Sampling": "types",
    "PromptCache": "cache.prompt_cache",
    "DFlashError": "errors",
}

__all__ = list(_HOMES)


def __getattr__(name):
    if name in _HOMES:
        value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return __all__
