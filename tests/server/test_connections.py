"""HTTP as clients should not send it, and what a connection is good for afterwards."""

import json
import logging
import socket
import time

import httpx
import pytest

from dflash_mlx.server import guard
from dflash_mlx.server.settings import Access, Limits, Settings
from tests.equipment.hostile import check_error
from tests.equipment.live_server import LiveServer
from tests.server.test_scheduler import is_idle, wait

PATH = "/v1/chat/completions"
BODY = json.dumps({"messages": [{"role": "user", "content": "Hi."}], "max_tokens": 2})
HEAD = f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
WHOLE = f"{HEAD}content-length: {len(BODY)}\r\n\r\n{BODY}"
KEY = "schlüssel"


@pytest.fixture(scope="module")
def keyed(tiny):
    """A server with a key that is not ASCII, and small bodies."""
    access = Access(port=0, api_key=KEY, origins=("http://good.test",))
    settings = Settings(access=access, limits=Limits(body_bytes=1000))
    with LiveServer(*tiny, settings) as live:
        yield live


def connect(server) -> socket.socket:
    port = server.socket.getsockname()[1]
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def read_answer(file) -> tuple[int, dict[str, str], bytes]:
    """The status, headers and body of the next response of a connection."""
    status = int(file.readline().split()[1])
    headers = {}
    while line := file.readline().strip():
        name, _, value = line.partition(b":")
        headers[name.decode().lower()] = value.strip().decode()
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(file.readline(), 16):
            body += file.read(size)
            file.readline()
        file.readline()
        return status, headers, body
    length = headers.get("content-length")
    return status, headers, file.read(int(length)) if length else file.read()


def ask(server, *texts: str | bytes, most: int = 1) -> list[tuple]:
    """Send texts over one connection; return its first `most` responses, or those
    before it closes or rests for a second."""
    found = []
    with connect(server) as connection:
        for text in texts:
            connection.sendall(text if isinstance(text, bytes) else text.encode())
        connection.settimeout(1)
        with connection.makefile("rb") as file:
            try:
                while len(found) < most and file.peek(1):
                    found.append(read_answer(file))
            except (TimeoutError, ConnectionResetError):
                pass  # reset where the server did not read all of it
    return found


def test_requests_in_one_packet_are_answered_in_order(server):
    other = json.dumps({"messages": []})
    wrong = f"{HEAD}content-length: {len(other)}\r\n\r\n{other}"
    health = "GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
    answers = ask(server, WHOLE + wrong + health + WHOLE, most=9)
    assert [status for status, _, _ in answers] == [200, 400, 200, 200]


def test_http_1_0(server):
    with_host = WHOLE.replace("HTTP/1.1", "HTTP/1.0")
    ((status, _, body),) = ask(server, with_host)
    assert status == 200 and json.loads(body)["choices"]
    streamed = BODY[:-1] + ', "stream": true}'
    head = HEAD.replace("HTTP/1.1", "HTTP/1.0")
    ((status, _, body),) = ask(
        server, f"{head}content-length: {len(streamed)}\r\n\r\n{streamed}"
    )
    assert status == 200 and body.endswith(b"data: [DONE]\n\n")
    ((status, _, body),) = ask(server, "GET /v1/models HTTP/1.0\r\n\r\n")
    assert status == 403 and json.loads(body)["error"]["code"] == "host_not_allowed"


@pytest.mark.parametrize(
    "request_text",
    [
        "\r\n\r\n\r\n",
        "GET\r\n\r\n",
        "nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a client that speaks TLS
        f"{HEAD}content-length: -1\r\n\r\n",
        f"{HEAD}content-length: five\r\n\r\n",
        f"{HEAD}content-length: {'9' * 5000}\r\n\r\n",
        f"{HEAD}content-length: 5\r\ncontent-length: 6\r\n\r\n12345",
        f"{HEAD}transfer-encoding: gzip\r\n\r\n",
        f"{HEAD}transfer-encoding: chunked\r\n\r\nsize\r\n",
        f"{HEAD}x: {'y' * 200_000}\r\n\r\n",
        f"{HEAD}{'x: y' * 50_000}\r\n\r\n",
        f"{HEAD}x: a\x00b\r\n\r\n",
        f"{HEAD}x y: z\r\n\r\n",
        f"GET /{'x' * 200_000} HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: localhost\r\nhost: evil.test\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused_and_the_next_is_answered(server, request_text):
    answers = ask(server, request_text)
    assert all(400 <= status < 500 for status, _, _ in answers), answers
    assert [status for status, _, _ in ask(server, WHOLE)] == [200]


@pytest.mark.parametrize(
    "host, allowed",
    [
        ("localhost:[", False),
        ("localhost:80:80", False),
        ("localhost:port", False),
        ("[::1", False),
        ("[::1]:8080", True),
        ("[::1]", True),
        ("localhost:", True),
        ("user@localhost", False),
        ("localhost/x", False),
        ("local\u00e9", False),
    ],
)
def test_odd_hosts(server, host, allowed):
    text = WHOLE.replace("host: localhost", f"host: {host}")
    ((status, _, body),) = ask(server, text)
    assert status == (200 if allowed else 403)
    if not allowed:
        check_error(PATH, json.loads(body))


@pytest.mark.parametrize(
    "rest",
    [
        "transfer-encoding: chunked\r\n\r\n1\r\n{\r\n",
        f"content-length: 500\r\n\r\n{BODY}",
    ],
)
def test_a_body_that_does_not_end_is_given_up(server, monkeypatch, rest):
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.4)
    with connect(server) as connection:
        connection.sendall((HEAD + rest).encode())
        assert [status for status, _, _ in ask(server, WHOLE)] == [200]
        with connection.makefile("rb") as file:
            status, _, body = read_answer(file)
    assert status == 408
    check_error(PATH, json.loads(body))
    assert json.loads(body)["error"]["code"] == "body_timeout"


def test_a_body_that_is_longer_than_declared_is_another_request(server):
    answers = ask(server, f"{HEAD}content-length: 10\r\n\r\n{BODY}", most=2)
    assert answers and all(status == 400 for status, _, _ in answers)
    assert [status for status, _, _ in ask(server, WHOLE)] == [200]


def test_a_client_that_leaves_during_its_body_is_no_bug(server, caplog):
    with connect(server) as connection:
        connection.sendall(f"{HEAD}content-length: 500\r\n\r\n{BODY}".encode())
        time.sleep(0.1)
    assert [status for status, _, _ in ask(server, WHOLE)] == [200]
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]


def test_a_connection_goes_on_after_errors_with_bodies_that_nobody_read(keyed):
    large = "x" * 200_000
    key = f"x-api-key: {KEY}\r\n"
    parts = [
        f"{HEAD}content-length: {len(large)}\r\n\r\n{large}",  # without the key
        f"{HEAD}{key}content-length: {len(large)}\r\n\r\n{large}",
        f"{HEAD}{key}content-length: {len(BODY)}\r\n\r\n{BODY}",
    ]
    statuses = [status for status, _, _ in ask(keyed, *parts, most=3)]
    assert statuses == [401, 413, 200]


@pytest.mark.parametrize(
    "header, right",
    [
        (f"x-api-key: {KEY}", True),
        (f"X-API-KEY: {KEY}", True),
        (f"authorization: bearer {KEY}", True),
        (f"AUTHORIZATION: Bearer   {KEY} ", True),
        (f"authorization: Basic {KEY}", False),
        ("x-api-key: schluessel", False),
        ("x-api-key: ", False),
        ("authorization: Bearer", False),
    ],
)
def test_a_key_that_is_not_ascii(keyed, header, right):
    text = f"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n{header}\r\n\r\n"
    ((status, _, body),) = ask(keyed, text)
    assert status == (200 if right else 401)
    if not right:
        check_error("/v1/models", json.loads(body))


def test_other_methods(keyed):
    key = {"x-api-key": KEY.encode()}
    asked = {"origin": "http://good.test", "access-control-request-method": "POST"}
    assert keyed.http.options(PATH, headers=asked).status_code == 204
    assert keyed.http.options("/nowhere").status_code == 204
    head = keyed.http.head("/v1/models", headers=key)
    assert head.status_code == 200 and not head.content
    for method in ("PUT", "DELETE", "PATCH", "GET"):
        response = keyed.http.request(method, "/v1/messages", headers=key)
        assert response.status_code == 405
        check_error("/v1/messages", response.json())


@pytest.mark.parametrize("path", [PATH + "/", PATH + "?beta=true", PATH + "?a=%00&b="])
def test_slashes_and_queries(server, path):
    response = server.http.post(path, json=json.loads(BODY), follow_redirects=True)
    assert response.status_code == 200


def test_a_client_that_does_not_read_holds_nobody_up(server):
    fields = json.loads(BODY) | {"stream": True, "max_tokens": 500, "logprobs": True}
    fields |= {"top_logprobs": 20, "temperature": 5, "seed": 1}
    fields["logit_bias"] = {"2": -100}  # never ends
    text = json.dumps(fields)
    with connect(server) as connection:
        connection.sendall(f"{HEAD}content-length: {len(text)}\r\n\r\n{text}".encode())
        wait(lambda: server.scheduler.running)
        assert server.http.post(PATH, json=json.loads(BODY)).status_code == 200
    wait(lambda: is_idle(server))


@pytest.mark.parametrize("path", [PATH, "/v1/messages"])
def test_a_bug_in_the_front_is_an_error_of_the_api(server, monkeypatch, path, caplog):
    from dflash_mlx.server import app

    def fail(*args):
        raise KeyError("bug")

    with monkeypatch.context() as patch:
        patch.setattr(app, "RequestLog", fail)
        response = server.http.post(path, json=json.loads(BODY))
    assert response.status_code == 500
    check_error(path, response.json())
    assert response.headers["x-should-retry"] == "false"
    wait(lambda: "KeyError: 'bug'" in caplog.text)
    assert server.http.post(path, json=json.loads(BODY)).status_code == 200


def test_a_connection_stays_open_longer_than_clients_use_it(server):
    limits = httpx.Limits(keepalive_expiry=60)
    with httpx.Client(base_url=server.url, limits=limits) as client:
        assert client.get("/health").status_code == 200
        assert server.server.config.timeout_keep_alive > 60
