"""Who may use the server: hosts, keys, origins, sizes, unknown routes."""

import pytest

from dflash_mlx.errors import OptionError
from dflash_mlx.server.run import bind
from dflash_mlx.server.settings import Access, Limits, Settings
from tests.equipment.live_server import LiveServer

BODY = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 2}
ROUTES = [
    ("GET", "/v1/models"),
    ("GET", "/models/tiny"),
    ("GET", "/status"),
    ("GET", "/metrics"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/completions"),
    ("GET", "/v1/never"),
]


@pytest.fixture(scope="module")
def guarded(tiny):
    access = Access(
        port=0, api_key="secret", hosts=("mac.local",), origins=("http://good.test",)
    )
    settings = Settings(access=access, limits=Limits(body_bytes=10_000))
    with LiveServer(*tiny, settings) as live:
        yield live


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_asks_for_the_key(guarded, method, path):
    for headers in ({}, {"x-api-key": "wrong"}, {"authorization": "Basic secret"}):
        response = guarded.http.request(method, path, json=BODY, headers=headers)
        assert response.status_code == 401, headers
        assert response.json()["error"]["code"] == "invalid_api_key"
    for headers in ({"x-api-key": "secret"}, {"authorization": "Bearer secret"}):
        response = guarded.http.request(method, path, json=BODY, headers=headers)
        assert response.status_code != 401


def test_the_page_and_the_probe_need_no_key(guarded):
    assert guarded.http.get("/").status_code == 200
    assert guarded.http.get("/health").json() == {"status": "ok"}
    assert guarded.http.head("/").status_code == 200


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost", True),
        ("127.0.0.1:9999", True),
        ("[::1]:80", True),
        ("mac.local:8080", True),
        ("MAC.LOCAL", True),
        ("evil.test", False),
        ("localhost.evil.test", False),
        ("", False),
    ],
)
def test_the_host_must_be_this_server(guarded, host, allowed):
    response = guarded.http.get("/health", headers={"host": host})
    assert response.status_code == (200 if allowed else 403)
    if not allowed:
        assert response.json()["error"]["code"] == "host_not_allowed"


def test_web_origins_are_allowed_by_name_only(guarded, server):
    good = {"origin": "http://good.test", "x-api-key": "secret"}
    response = guarded.http.get("/v1/models", headers=good)
    assert response.headers["access-control-allow-origin"] == "http://good.test"
    asked = guarded.http.options("/v1/chat/completions", headers=good)
    assert asked.status_code == 204
    assert "x-api-key" in asked.headers["access-control-allow-headers"]
    bad = {"origin": "http://bad.test", "x-api-key": "secret"}
    response = guarded.http.get("/v1/models", headers=bad)
    assert "access-control-allow-origin" not in response.headers
    response = server.http.get("/v1/models", headers={"origin": "http://good.test"})
    assert "access-control-allow-origin" not in response.headers


def test_large_bodies_are_refused(guarded):
    headers = {"x-api-key": "secret"}
    large = {"messages": [{"role": "user", "content": "x" * 20_000}]}
    response = guarded.http.post("/v1/chat/completions", json=large, headers=headers)
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "body_too_large"

    def parts():
        for _ in range(20):
            yield b" " * 1000

    headers["content-type"] = "application/json"
    response = guarded.http.post("/v1/completions", content=parts(), headers=headers)
    assert response.status_code == 413


def test_unknown_routes_and_methods(server):
    response = server.http.get("/v1/never")
    assert response.status_code == 404
    assert response.json()["error"]["message"] == "There is no /v1/never here."
    response = server.http.get("/v1/chat/completions")
    assert response.status_code == 405 and "GET" in response.json()["error"]["message"]


def test_models_are_listed(server):
    data = server.http.get("/models?").json()["data"]
    assert [each["id"] for each in data] == ["tiny", "second"]
    assert data[0]["max_model_len"] == 8192 and data[0]["object"] == "model"
    one = server.http.get("/v1/models/tiny").json()
    assert one == data[0]
    missing = server.http.get("/v1/models/a/b")
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "model_not_found"


def test_a_port_in_use_is_a_sentence(server):
    port = server.socket.getsockname()[1]
    with pytest.raises(OptionError, match=f"127.0.0.1:{port}.*Choose another --port"):
        bind(Access(port=port))
