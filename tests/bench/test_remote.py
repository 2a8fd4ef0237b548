"""A server with OpenAI's API as a contender, against a stand-in on this machine."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dflash_mlx import load
from dflash_mlx.bench import results
from dflash_mlx.bench.benchmark import Settings, measure
from dflash_mlx.bench.contenders import Request
from dflash_mlx.bench.remote import Server
from dflash_mlx.bench.suites import Prompt
from dflash_mlx.errors import OptionError, ServerError
from dflash_mlx.terminal.benchmark_table import remarks
from dflash_mlx.types import Sampling
from tests.equipment.program import program

QUICK = Settings(max_tokens=24, repeats=2, warmup=4)


@pytest.fixture(scope="module")
def tiny():
    return load("tiny")


class Script:
    """What the stand-in server sends, and what it was asked."""

    def __init__(self):
        self.lines, self.pause, self.status = [], 0.0, 200
        self.requests, self.keys = [], []
        self.models = [{"id": "first"}, {"id": "second"}]
        self.promised = None  # bytes of the list of models

    def chunk(self, **delta):
        self.lines.append("data: " + json.dumps({"choices": [{"delta": delta}]}))


@pytest.fixture
def server():
    """A stand-in for an OpenAI-compatible server, and its address."""
    script = Script()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args):
            """Quiet."""

        def do_GET(self):
            self.reply(json.dumps({"data": script.models}), promised=script.promised)

        def reply(self, text, status=200, promised=None):
            self.send_response(status)
            if promised:
                self.send_header("Content-Length", promised)
            self.end_headers()
            self.wfile.write(text.encode())

        def do_POST(self):
            length = int(self.headers["Content-Length"])
            script.requests.append((self.path, json.loads(self.rfile.read(length))))
            script.keys.append(self.headers["Authorization"])
            if script.status != 200:
                return self.reply('{"error": "no such key"}', script.status)
            self.reply("")
            for line in script.lines:
                time.sleep(script.pause)
                self.wfile.write(f"{line}\n\n".encode())
                self.wfile.flush()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield script, f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()
        thread.join()


def ask(tokens=8, **sampling):
    return Request([], "Hi", tokens, Sampling(seed=2, **sampling))


def test_a_server_is_timed_and_counts(server, tiny):
    script, url = server
    script.pause = 0.05
    script.chunk(role="assistant")
    for word in ("one", " two", " three"):
        script.chunk(content=word)
    script.lines.append('data: {"choices": [], "usage": {"completion_tokens": 11}}')
    script.lines.append("data: [DONE]")
    rival = Server(url + "/", tiny[1], "secret")
    answer = rival.answer(ask(top_p=0.9))
    assert rival.model == "first" and answer.count == 11
    assert answer.counted == "server" and answer.peak is None and answer.stats is None
    # Two pauses each; a reader that comes late sees less of the second two.
    assert answer.first >= 0.1 and answer.seconds >= 0.03
    assert answer.speed == pytest.approx(10 / answer.seconds)
    assert tiny[1].decode(answer.tokens) == "one two three"
    path, body = script.requests[0]
    assert path == "/v1/chat/completions" and script.keys == ["Bearer secret"]
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


def test_a_server_that_does_not_count(server, tiny):
    script, url = server
    script.lines.append(": keep-alive")
    script.chunk(reasoning_content="Well, ")
    script.chunk(content="one two")
    script.lines.append("data: [DONE]")
    rival = Server(url + "/v1", tiny[1], model="mine")
    answer = rival.answer(ask())
    spelt = tiny[1].encode("Well, one two", add_special_tokens=False)
    assert answer.counted == "tokenizer" and answer.tokens == spelt
    assert answer.count == len(spelt)
    assert script.requests[0][1]["model"] == "mine" and script.keys == [None]
    runs = measure([rival], [Prompt("chat", "x")], QUICK, tiny[1], None)
    row = results.rows_of(runs)[0]
    assert row.engine == "server" and row.of_plain is None
    assert "counted by our tokenizer" in remarks(row)


@pytest.mark.parametrize(
    ("lines", "status", "words"),
    [
        ([], 401, "refused with 401.*no such key"),
        (["data: {"], 200, "no JSON object"),
        (['data: {"error": "out of memory"}'], 200, "out of memory"),
        (['data: {"choices": []}'], 200, "broke off"),
        (["data: [DONE]"], 200, "without any text"),
        (['data: {"choices": [null]}'], 200, "another dialect"),
        (['data: {"choices": [{"delta": {"content": [1]}}]}'], 200, "another dialect"),
        (['data: {"choices": [], "usage": [1]}'], 200, "another dialect"),
    ],
)
def test_a_server_that_fails(server, tiny, lines, status, words):
    script, url = server
    script.lines, script.status = lines, status
    with pytest.raises(ServerError, match=words):
        Server(url, tiny[1]).answer(ask())


def test_a_list_of_models_that_breaks_off(server, tiny):
    script, url = server
    script.promised = 1000
    with pytest.raises(ServerError, match="broke off"):
        Server(url, tiny[1])


def test_a_server_is_asked_not_to_end(server, tiny):
    script, url = server
    script.chunk(content="one")
    script.lines.append("data: [DONE]")
    rival = Server(url, tiny[1])
    for endless in (False, True):
        rival.answer(Request([], "Hi", 8, Sampling(), endless))
        assert script.requests[-1][1].get("ignore_eos", False) is endless


def test_the_last_count_that_is_told_counts(server, tiny):
    """Some tell it in every chunk, some as text."""
    script, url = server
    script.chunk(content="one two")
    script.lines.append('data: {"choices": [], "usage": {"completion_tokens": 3}}')
    script.lines.append('data: {"choices": [], "usage": {"completion_tokens": "5"}}')
    script.lines += ['data: {"choices": [], "usage": null}', "data: [DONE]"]
    answer = Server(url, tiny[1]).answer(ask())
    assert (answer.count, answer.counted) == (5, "server")


@pytest.mark.parametrize("models", ([{"name": "x"}], {"a": 1}, ["x"]))
def test_a_list_of_models_in_another_dialect(server, tiny, models):
    script, url = server
    script.models = models
    with pytest.raises(ServerError, match="another dialect"):
        Server(url, tiny[1])


@pytest.mark.parametrize("key", ("hush-hush\n", "hush-\u20ac"))
def test_a_key_that_cannot_be_sent_is_not_shown(server, tiny, key):
    with pytest.raises(OptionError, match="cannot be sent") as told:
        Server(server[1], tiny[1], key)
    assert "hush" not in str(told.value)


@pytest.mark.parametrize("url", ("http://[::1", "http://a..b"))
def test_an_address_that_is_none(tiny, url):
    with pytest.raises(OptionError, match="cannot be sent"):
        Server(url, tiny[1])


def test_no_server(tiny):
    with pytest.raises(ServerError, match="cannot be reached"):
        Server("http://127.0.0.1:9", tiny[1])
    with pytest.raises(OptionError, match="--base-url"):
        Server("localhost:8000", tiny[1])


def test_a_server_alone_and_no_key_in_what_is_told(server, tmp_path):
    script, url = server
    script.chunk(content="one two three")
    script.lines.append("data: [DONE]")
    run = program(
        *("benchmark", "--base-url", url, "--no-local", "--api-key", "hush-hush"),
        *("--classes", "chat", "--samples", "1", "--repeats", "1", "--json"),
    )
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout)
    assert [row["contender"] for row in told["rows"]] == ["server"]
    assert told["server"] == {"url": url + "/v1", "model": "first"}
    assert script.keys[0] == "Bearer hush-hush" and "hush" not in run.stdout
