"""A server in this process, on a free port of the loopback interface."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx

from dflash_mlx.server.models import Loaded, Models
from dflash_mlx.server.prefix_store import PrefixStore
from dflash_mlx.server.run import bind, make_server
from dflash_mlx.server.settings import Access, Settings

ACCESS = Access(port=0)


class LiveServer:
    """A server; a context manager.

    Args:
        pair, tokenizer: The model that is loaded.
        settings: The server's settings; a free port is chosen for port 0.
        name: The served name.
        others: Further served names; they load the same pair.
        aliases: As in Models.

    Attributes:
        url: Where it listens.
        http: A client for it.
    """

    def __init__(
        self,
        pair,
        tokenizer,
        settings: Settings | None = None,
        name: str = "tiny",
        others: tuple[str, ...] = (),
        aliases: dict[str, str] | None = None,
    ):
        self.loads: list[str] = []
        loaded = Loaded(name, pair, tokenizer, "drafter", PrefixStore(pair))

        def load(other):
            self.loads.append(other)
            return pair, tokenizer, "drafter"

        self.models = Models([name, *others], load, aliases or {}, loaded=loaded)
        self.settings = settings or Settings(access=ACCESS)

    def __enter__(self) -> LiveServer:
        ready = threading.Event()
        self.socket = bind(self.settings.access)
        self.server = make_server(self.models, self.settings, ready.set)
        self.scheduler = self.server.scheduler
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.thread = threading.Thread(target=self.server.run, args=([self.socket],))
        self.thread.start()
        assert ready.wait(20)
        self.http = httpx.Client(base_url=self.url, timeout=60)
        return self

    def __exit__(self, *error) -> None:
        self.http.close()
        self.server.handle_exit(2, None)
        self.thread.join(20)
        assert not self.thread.is_alive()
        assert self.scheduler.stop(20)

    def post(self, path: str, body: dict[str, Any], **headers: str) -> httpx.Response:
        """Send a JSON body."""
        return self.http.post(path, json=body, headers=headers)

    def chat(self, text: str, **more: Any) -> dict[str, Any]:
        """The answer to a message, as the whole JSON object."""
        messages = [{"role": "user", "content": text}]
        response = self.post("/v1/chat/completions", {"messages": messages} | more)
        assert response.status_code == 200, response.text
        return response.json()

    def frames(self, path: str, body: dict[str, Any]) -> list[str]:
        """The frames of a stream, comments included."""
        response = self.post(path, body | {"stream": True})
        assert response.status_code == 200, response.text
        assert response.text.endswith("\n\n")
        return response.text.split("\n\n")[:-1]


def data_of(frames: list[str]) -> Iterator[Any]:
    """The JSON values of frames, without comments and [DONE]."""
    for frame in frames:
        for line in frame.split("\n"):
            if line.startswith("data: {"):
                yield json.loads(line.removeprefix("data: "))
