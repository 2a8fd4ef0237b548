"""A server with OpenAI's API as a contender, tested with a fake server."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dflash_mlx.bench import results
from dflash_mlx.bench.benchmark import measure
from dflash_mlx.bench.contenders import Request
from dflash_mlx.bench.remote import Server
from dflash_mlx.bench.suites import Prompt
from dflash_mlx.errors import OptionError, ServerError
from dflash_mlx.terminal.benchmark_table import remarks
from dflash_mlx.types import Sampling
from tests.bench.conftest import QUICK
from tests.equipment.program import program

OTHER_API = "does not follow OpenAI's chat API"


class FakeServer:
    """The lines that the fake server sends, and the requests that it received."""

    def __init__(self):
        self.lines, self.pause, self.status = [], 0.0, 200
        self.requests, self.keys = [], []
        self.models = [{"id": "first"}, {"id": "second"}]
        self.content_length = None  # of the list of models

    def chunk(self, **delta):
        self.lines.append("data: " + json.dumps({"choices": [{"delta": delta}]}))


@pytest.fixture
def server():
    """A fake OpenAI-compatible server, and its address."""
    fake = FakeServer()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args):
            """Print nothing."""

        def do_GET(self):
            models = json.dumps({"data": fake.models})
            self.reply(models, content_length=fake.content_length)

        def reply(self, text, status=200, content_length=None):
            self.send_response(status)
            if content_length:
                self.send_header("Content-Length", content_length)
            self.end_headers()
            self.wfile.write(text.encode())

        def do_POST(self):
            length = int(self.headers["Content-Length"])
            fake.requests.append((self.path, json.loads(self.rfile.read(length))))
            fake.keys.append(self.headers["Authorization"])
            if fake.status != 200:
                return self.reply('{"error": "no such key"}', fake.status)
            self.reply("")
            for line in fake.lines:
                time.sleep(fake.pause)
                self.wfile.write(f"{line}\n\n".encode())
                self.wfile.flush()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield fake, f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()
        thread.join()


def make_request(tokens=8, **sampling):
    return Request([], "Hi", tokens, Sampling(seed=2, **sampling))


def test_a_server_is_timed_and_counts(server, tiny):
    fake, url = server
    fake.pause = 0.05
    fake.chunk(role="assistant")
    for word in ("one", " two", " three"):
        fake.chunk(content=word)
    fake.lines.append('data: {"choices": [], "usage": {"completion_tokens": 11}}')
    fake.lines.append("data: [DONE]")
    contender = Server(url + "/", tiny[1], "secret")
    answer = contender.answer(make_request(top_p=0.9))
    assert contender.model == "first" and answer.count == 11
    assert answer.counted == "server" and answer.peak is None and answer.stats is None
    # Two pauses each; a late reader sees less of the second two.
    assert answer.first_token >= 0.1 and answer.seconds >= 0.03
    assert answer.speed == pytest.approx(10 / answer.seconds)
    assert tiny[1].decode(answer.tokens) == "one two three"
    path, body = fake.requests[0]
    assert path == "/v1/chat/completions" and fake.keys == ["Bearer secret"]
    assert body == {
        "model": "first",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 8,
        "temperature": 0.0,
        "top_p": 0.9,
        "seed": 2,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_tokens_are_counted_here_if_the_server_does_not(server, tiny):
    fake, url = server
    fake.lines.append(": keep-alive")
    fake.chunk(reasoning_content="Well, ")
    fake.chunk(content="one two")
    fake.lines.append("data: [DONE]")
    contender = Server(url + "/v1", tiny[1], model="mine")
    answer = contender.answer(make_request())
    tokens = tiny[1].encode("Well, one two", add_special_tokens=False)
    assert answer.counted == "tokenizer" and answer.tokens == tokens
    assert answer.count == len(tokens)
    assert fake.requests[0][1]["model"] == "mine" and fake.keys == [None]
    runs = measure([contender], [Prompt("chat", "x")], QUICK, tiny[1], None)
    row = results.rows_of(runs)[0]
    assert row.engine == "server" and row.of_plain is None
    assert "tokens counted here" in remarks(row)


@pytest.mark.parametrize(
    ("lines", "status", "words"),
    [
        ([], 401, "status 401.*no such key"),
        (["data: {"], 200, "other than a JSON object"),
        (['data: {"error": "out of memory"}'], 200, "out of memory"),
        (['data: {"choices": []}'], 200, r"ended its answer before \[DONE\]"),
        (["data: [DONE]"], 200, "without text"),
        (['data: {"choices": [null]}'], 200, OTHER_API),
        (['data: {"choices": [{"delta": {"content": [1]}}]}'], 200, OTHER_API),
        (['data: {"choices": [], "usage": [1]}'], 200, OTHER_API),
    ],
)
def test_a_server_that_fails(server, tiny, lines, status, words):
    fake, url = server
    fake.lines, fake.status = lines, status
    with pytest.raises(ServerError, match=words):
        Server(url, tiny[1]).answer(make_request())


def test_a_list_of_models_that_ends_early(server, tiny):
    fake, url = server
    fake.content_length = 1000
    with pytest.raises(ServerError, match="connection to .* broke"):
        Server(url, tiny[1])


def test_an_endless_answer_is_requested_with_ignore_eos(server, tiny):
    fake, url = server
    fake.chunk(content="one")
    fake.lines.append("data: [DONE]")
    contender = Server(url, tiny[1])
    for endless in (False, True):
        contender.answer(Request([], "Hi", 8, Sampling(), endless))
        assert fake.requests[-1][1].get("ignore_eos", False) is endless


def test_the_last_reported_count_is_used(server, tiny):
    """Some servers report it in every chunk, some as text."""
    fake, url = server
    fake.chunk(content="one two")
    fake.lines.append('data: {"choices": [], "usage": {"completion_tokens": 3}}')
    fake.lines.append('data: {"choices": [], "usage": {"completion_tokens": "5"}}')
    fake.lines += ['data: {"choices": [], "usage": null}', "data: [DONE]"]
    answer = Server(url, tiny[1]).answer(make_request())
    assert (answer.count, answer.counted) == (5, "server")


@pytest.mark.parametrize("models", ([{"name": "x"}], {"a": 1}, ["x"]))
def test_a_list_of_models_with_another_structure(server, tiny, models):
    fake, url = server
    fake.models = models
    with pytest.raises(ServerError, match=OTHER_API):
        Server(url, tiny[1])


@pytest.mark.parametrize("key", ("hush-hush\n", "hush-\u20ac"))
def test_the_error_for_an_invalid_key_does_not_show_it(server, tiny, key):
    with pytest.raises(OptionError, match="cannot be sent") as error:
        Server(server[1], tiny[1], key)
    assert "hush" not in str(error.value)


@pytest.mark.parametrize("url", ("http://[::1", "http://a..b"))
def test_an_invalid_address(tiny, url):
    with pytest.raises(OptionError, match="cannot be sent"):
        Server(url, tiny[1])


def test_a_server_that_does_not_run(tiny):
    with pytest.raises(ServerError, match="cannot be reached"):
        Server("http://127.0.0.1:9", tiny[1])
    with pytest.raises(OptionError, match="--base-url"):
        Server("localhost:8000", tiny[1])


def test_a_server_alone_and_its_key_is_not_printed(server, tmp_path):
    fake, url = server
    fake.chunk(content="one two three")
    fake.lines.append("data: [DONE]")
    run = program(
        *("benchmark", "--base-url", url, "--no-local", "--api-key", "hush-hush"),
        *("--classes", "chat", "--samples", "1", "--repeats", "1", "--json"),
    )
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert [row["contender"] for row in report["rows"]] == ["server"]
    assert report["server"] == {"url": url + "/v1", "model": "first"}
    assert fake.keys[0] == "Bearer hush-hush" and "hush" not in run.stdout
