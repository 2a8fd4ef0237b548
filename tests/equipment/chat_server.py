"""A stand-in for the server, which answers the chat page by a script.

It speaks what the page uses of the server's API: the page itself, models, status and
streamed chat completions with drafts. What it answers is named by the user's message (a
key of ANSWERS), so that a test gets a slow answer, an error or a broken connection when
it wants one. It knows no model.
"""

from __future__ import annotations

import json
import select
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.equipment.page_policy import PAGE

MARKDOWN = """\
# Primes

A **prime** has *two* divisors, `1` and ~~it~~ [itself](https://example.org/a_(b)).

- one
  - nested
- two

1. first
2. second

| n | prime |
|--:|:--|
| 2 | yes |
| 4 | no |

> quoted

```python
def is_prime(n):  # trial division
    return n > 1 and all(n % d for d in range(2, n))
```

The end.
"""
HOSTILE = """\
<script>window.hurt = 1</script> <img src=x onerror="window.hurt = 1">

[a link](javascript:window.hurt=1) ![p](http://127.0.0.1:1/pixel.png) <b>not bold</b>

```html
</code><script>window.hurt = 1</script>
```

| <img src=x onerror=window.hurt=1> |
|---|
| <script>window.hurt=1</script> |
"""
Send = Callable[..., None]


def tokens(text: str) -> list[str]:
    """A text in pieces of four characters or fewer."""
    return [text[i : i + 4] for i in range(0, len(text), 4)]


def in_rounds(text: str, send: Send) -> None:
    """Send a text in rounds of three accepted drafts and the target's own token."""
    pieces = tokens(text)
    for i in range(0, len(pieces), 4):
        drafted = [[piece, k < 3] for k, piece in enumerate(pieces[i : i + 4])]
        send({"content": "".join(pieces[i : i + 4])}, pieces=drafted)


def slow(handler: Handler, send: Send) -> None:
    """One word each time that the test opens the gate, ten in all."""
    for i in range(10):
        handler.wait_at_gate()
        send({"content": f"word{i} "}, pieces=[[f"word{i} ", True]])


def queued(handler: Handler, send: Send) -> None:
    for comment in ("queued 2", "prefill 512/2048"):
        handler.write(f": {comment}\n\n".encode())
        handler.wait_at_gate()
    in_rounds("After the queue.", send)


def thinking(handler: Handler, send: Send) -> None:
    for piece in ("Let me ", "see: **17** ", "is prime."):
        send({"reasoning_content": piece, "reasoning": piece})
    handler.wait_at_gate()
    in_rounds("Seventeen is prime.", send)


def tool(handler: Handler, send: Send) -> None:
    function = {"name": "weather", "arguments": ""}
    call = {"index": 0, "id": "call_1", "type": "function", "function": function}
    send({"tool_calls": [call]})
    for part in ('{"city": ', '"Oslo"}'):
        send({"tool_calls": [{"index": 0, "function": {"arguments": part}}]})


def error_event(handler: Handler, send: Send) -> None:
    in_rounds("Half an", send)
    error = {"message": "The GPU ran out of memory.", "type": "server_error"}
    handler.event({"error": error})
    handler.write(b"")
    raise ConnectionAbortedError


def broken(handler: Handler, send: Send) -> None:
    in_rounds("Half an", send)
    handler.wait_at_gate()
    raise ConnectionAbortedError


def long(handler: Handler, send: Send) -> None:
    """An answer of 40,000 characters as fast as it can be sent."""
    paragraph = (
        "Some **words** of a `long` answer, with [links](https://a.example). " * 6
    )
    code = "```python\n" + "x = [1, 2, 3]  # a line\n" * 300 + "```\n"
    in_rounds(f"{paragraph}\n\n" * 60 + code + "- item\n" * 300 + "It is over.", send)


ANSWERS = {
    "markdown": lambda handler, send: in_rounds(MARKDOWN, send),
    "hostile": lambda handler, send: in_rounds(HOSTILE, send),
    "slow": slow,
    "queue": queued,
    "think": thinking,
    "tool": tool,
    "error": error_event,
    "broken": broken,
    "long": long,
}
BUSY = "The queue is full: 8 requests wait."
REFUSED = {  # by message: (status, headers, error)
    "busy": (429, {"retry-after": "3"}, {"message": BUSY, "code": "queue_full"}),
    "wrong": (400, {}, {"message": "temperature is 9, which is above 5."}),
    "crash": (500, {}, {"message": "The model failed"}),
}


class Handler(BaseHTTPRequestHandler):
    """Answers a request of the page."""

    protocol_version = "HTTP/1.1"

    def setup(self):
        super().setup()
        self.server.connections.add(self.connection)

    def do_GET(self):
        if self.path == "/":
            self.send(200, PAGE.read_bytes(), {"Content-Type": "text/html"})
        elif not self.allowed():
            return
        elif self.path == "/status":
            self.send_json(200, self.server.chat.status)
        elif self.path == "/v1/models":
            names = (("tiny", "Tiny"), ("other", None))
            data = [
                {"id": i, "display_name": name, "max_model_len": 4096}
                for i, name in names
            ]
            self.send_json(200, {"data": data})
        else:
            self.send_json(404, {"error": {"message": "There is no such path."}})

    def allowed(self) -> bool:
        chat = self.server.chat
        if chat.key and self.headers["Authorization"] != f"Bearer {chat.key}":
            self.send_json(401, {"error": {"message": "A key is needed."}})
            return False
        return True

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.allowed():
            return
        self.server.chat.bodies.append(body)
        text = body["messages"][-1]["content"]
        if text in REFUSED:
            status, headers, error = REFUSED[text]
            self.send_json(status, {"error": {"type": "some_error", **error}}, headers)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            self.answer(text)
            self.write(b"")
        except OSError:  # the page has gone, or the script wants the connection broken
            self.server.chat.cut += 1
            self.close_connection = True

    def answer(self, text):
        sent = 0

        def send(delta, finish=None, pieces=None):
            nonlocal sent
            sent += len(pieces or ())
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            stats = {
                "tokens_per_second": 48.26,
                "tokens_per_round": 4.0,
                "speedup": 2.9,
            }
            extension = {"pieces": pieces or [], **stats}
            self.event({"choices": [choice], "dflash": extension})

        send({"role": "assistant", "content": ""})
        script = ANSWERS.get(text)
        if script:
            script(self, send)
        else:
            in_rounds(f"You said: {text}", send)
        send({}, "tool_calls" if text == "tool" else "stop")
        usage = {"prompt_tokens": 24, "completion_tokens": sent}
        usage["total_tokens"] = 24 + sent
        usage["prompt_tokens_details"] = {"cached_tokens": 16}
        usage["completion_tokens_details"] = {"reasoning_tokens": 0}
        last = {
            "tokens_per_second": 51.5,
            "tokens_per_round": 4.0,
            "speedup": 3.1,
            "time_to_first_token": 0.12,
            "engine": "dflash",
            "reason": None,
        }
        self.event({"choices": [], "usage": usage, "dflash": last})
        self.write(b"data: [DONE]\n\n")

    def event(self, data):
        self.write(f"data: {json.dumps(data)}\n\n".encode())

    def write(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def wait_at_gate(self):
        """Wait until the test opens the gate once more, or the page disconnects."""
        while not self.server.chat.gate.acquire(timeout=0.01):
            readable, _, _ = select.select([self.connection], [], [], 0)
            if readable and not self.connection.recv(1, socket.MSG_PEEK):
                raise ConnectionAbortedError

    def send_json(self, status, body, headers=None):
        headers = {"Content-Type": "application/json", **(headers or {})}
        self.send(status, json.dumps(body).encode(), headers)

    def send(self, status, body, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    """Without a word where a browser closes its connections."""

    def handle_error(self, request, client_address):
        pass


class ChatServer:
    """The running stand-in, as a context manager.

    Attributes:
        status: What GET /status answers.
        key: The API key that it wants, or None.
        bodies: The requests for completions so far.
        cut: How many answers did not reach their end.
        gate: Each release lets a slow answer go one step further.
    """

    def __init__(self):
        self.port = 0
        self.reset()

    def reset(self) -> None:
        """Forget what a test has changed."""
        self.status = {
            "model": "tiny",
            "state": "ready",
            "drafter": "tiny-dflash",
            "running": 0,
            "waiting": 0,
            "max_queue": 8,
            "version": "0.1.0",
            "uptime": 1.0,
        }
        self.key, self.bodies, self.cut = None, [], 0
        self.gate = threading.Semaphore(0)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def open_gate(self, steps: int = 1) -> None:
        self.gate.release(steps)

    def start(self) -> None:
        self.server = Server(("127.0.0.1", self.port), Handler)
        self.server.chat, self.server.connections = self, set()
        self.port = self.server.server_port
        run = self.server.serve_forever
        threading.Thread(target=run, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """End the server and break its connections."""
        self.server.shutdown()
        self.server.server_close()
        for connection in self.server.connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:  # closed before
                continue

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()


if __name__ == "__main__":  # to look at the page by hand
    with ChatServer() as server:
        server.open_gate(10**6)
        print(server.url)
        time.sleep(10**6)
