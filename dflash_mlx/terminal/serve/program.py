"""`serve`: load a model, say where the server is, and serve until Ctrl-C.

Owns what is printed, and how options become the server's settings. Does not know
routes or requests.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...hub.registry import resolve
from ...server.models import Loaded, Models
from ...server.prefix_store import PrefixStore
from ...server.run import bind
from ...server.run import run as run_server
from ...server.settings import Access, Decoding, Defaults, Limits, Settings
from ..answer_options import ThinkingOptions
from ..answer_request import AnswerRequest
from ..streams import print_notice
from ..thinking import Thinking, drafter_name, warnings
from .options import ServeOptions

READY = """\
Serving {name} at {url}/v1  (Ctrl-C ends)

  curl {url}/v1/chat/completions -H 'content-type: application/json'{curl_key} \\
    -d '{{"messages": [{{"role": "user", "content": "Hello!"}}]}}'
  openai.OpenAI(base_url="{url}/v1", api_key="{key}")
  ANTHROPIC_BASE_URL={url} ANTHROPIC_AUTH_TOKEN={key} ANTHROPIC_MODEL={name} \\
    ANTHROPIC_DEFAULT_HAIKU_MODEL={name} claude
"""


def run(
    request: AnswerRequest, thinking: ThinkingOptions, options: ServeOptions
) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Args:
        request: The defaults of answers; its model is loaded first.
        thinking: Whether the models reason first.
        options: Where the server listens, and what it allows.
    """
    settings = make_settings(request, thinking, options)
    served = served_models(request.model, options.aliases())
    sock = bind(settings.access)
    log_to_stderr(options.log_level)
    first = served.names[0]
    loader = Loader(request, thinking, served.models)
    pair, tokenizer, drafter = loader.load_first(first)
    kept = options.max_concurrent + 1
    prefixes = PrefixStore(pair, request.max_kv_size, kept)
    models = Models(
        served.names,
        loader,
        served.aliases,
        request.max_kv_size,
        kept,
        Loaded(first, pair, tokenizer, drafter, prefixes),
    )
    host, port = options.host, sock.getsockname()[1]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def announce():
        print(ready_text(first, url, options.api_key), flush=True)

    run_server(models, settings, sock, announce)


def ready_text(name: str, url: str, api_key: str | None) -> str:
    """What is printed when requests are accepted: the address, and lines to paste.

    Args:
        name: The served model.
        url: The server's address.
        api_key: The key, which is not printed.
    """
    curl_key = " -H 'authorization: Bearer KEY'" if api_key else ""
    key = "KEY" if api_key else "none"
    return READY.format(name=name, url=url, key=key, curl_key=curl_key)


@dataclass(frozen=True)
class Served:
    """What is served.

    Args:
        names: The served names; the first is the default model's.
        models: What each name loads: an alias, a Hub id or a folder.
        aliases: Further names and patterns, and the served names they stand for.
    """

    names: list[str]
    models: dict[str, str]
    aliases: dict[str, str]


def served_models(model: str, aliases: dict[str, str]) -> Served:
    """What is served with a --model and the --alias options.

    Raises:
        UnknownModelError: A model is not known.
    """
    names: dict[str, str] = {}
    for each in (model, *aliases.values()):
        resolve(each)
        names.setdefault(served_name(each), each)
    stands_for = {name: served_name(each) for name, each in aliases.items()}
    return Served(list(names), names, stands_for)


def served_name(model: str) -> str:
    """The name that a model is served under: a folder's last part, else as given."""
    path = Path(model).expanduser()
    return path.resolve().name if path.is_dir() else model


class Loader:
    """Loads the served models.

    Args:
        request: The options; its drafter belongs to its model only.
        thinking: Whether the models reason first.
        models: What each served name loads.
    """

    def __init__(
        self, request: AnswerRequest, thinking: ThinkingOptions, models: dict[str, str]
    ):
        self.request, self.models = request, models
        self.thinking = Thinking(thinking.thinking, thinking.reasoning_effort)

    def load_first(self, name: str) -> tuple[Any, Any, str | None]:
        """Load the first model, with progress on a terminal."""
        return self._load(self.request)

    def __call__(self, name: str) -> tuple[Any, Any, str | None]:
        """Load a served model; see server.models.Load."""
        request = self.request
        if self.models[name] != request.model:
            more = {"draft": None, "revision": None, "adapter_path": None}
            request = replace(request, model=self.models[name], **more)
        return self._load(request, show_progress=False)

    def _load(self, request, show_progress=None):
        pair, tokenizer = request.load(show_progress)
        for warning in warnings(self.thinking, request, pair, tokenizer):
            print_notice(warning)
        return pair, tokenizer, drafter_name(request, pair)


def make_settings(
    request: AnswerRequest, thinking: ThinkingOptions, options: ServeOptions
) -> Settings:
    """The server's settings.

    Raises:
        OptionError: An option cannot be used.
    """
    modes = {"on": True, "off": False, "auto": None}
    defaults = Defaults(
        request.sampling,
        request.max_tokens,
        tuple(request.stop or ()),
        request.system_prompt,
        modes[thinking.thinking],
        thinking.reasoning_effort,
        request.template_arguments(),
    )
    decoding = Decoding(
        request.block_size,
        not request.plain,
        request.prefill_step_size,
        request.max_kv_size,
        request.kv_bits,
        request.kv_group_size,
        request.quantized_kv_start,
    )
    timeout = options.timeout or None
    limits = Limits(
        options.max_tokens_cap,
        options.context,
        options.max_queue,
        options.max_concurrent,
        timeout,
    )
    access = Access(
        options.host,
        options.port,
        options.api_key,
        tuple(options.allowed_host or ()),
        tuple(options.allowed_origin or ()),
    )
    return Settings(defaults, decoding, limits, access)


def log_to_stderr(level: str) -> None:
    """Write the server's log to stderr, a line per record with the time.

    Args:
        level: Of Python's logging, in small letters.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    for name, least in (("dflash_mlx.server", level), ("uvicorn.error", "warning")):
        logging.getLogger(name).addHandler(handler)
        logging.getLogger(name).setLevel(least.upper())
