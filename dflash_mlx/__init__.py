"""DFlash speculative decoding on MLX: the same tokens, several times faster.

    from dflash_mlx import generate, load

    pair, tokenizer = load("tiny")
    print(generate(pair, tokenizer, "Hello!"))

Names are imported on first use, so that importing the package does not import MLX.
"""

from importlib import import_module

# Public name -> its module and its name there; None is the module itself.
_PUBLIC = {
    "load": ("loading", "load"),
    "load_drafter": ("loading", "load_drafter"),
    "Pair": ("pair", "Pair"),
    "generate": ("engine", "generate"),
    "stream_generate": ("engine", "stream_generate"),
    "GenerationResponse": ("engine", "GenerationResponse"),
    "Stats": ("stats", "Stats"),
    "decode": ("decoding.loop", "decode"),
    "Round": ("types", "Round"),
    "Sampling": ("types", "Sampling"),
    "PromptCache": ("cache.prompt_cache", "PromptCache"),
    "chat_template": ("text.chat_template", None),
    "DFlashError": ("errors", "DFlashError"),
}

__all__ = list(_PUBLIC)


def __getattr__(name):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home, attribute = _PUBLIC[name]
    module = import_module(f".{home}", __name__)
    globals()[name] = getattr(module, attribute) if attribute else module
    return globals()[name]


def __dir__():
    return __all__
