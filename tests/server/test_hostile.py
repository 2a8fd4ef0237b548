"""Hostile requests: each gets an error in its API's shape, and the next is answered."""

import json
import logging
import random
import threading
import time

import pytest

from dflash_mlx.server.app import warning_headers
from dflash_mlx.server.dialects.messages import template_call
from dflash_mlx.server.errors import RequestError, one_line
from dflash_mlx.server.settings import Access, Limits, Settings
from tests.equipment.hostile import VALID, check_answer, check_error, encode, mutate
from tests.equipment.live_server import LiveServer, data_of
from tests.equipment.odd_requests import ANSWERED, ASK, CHATS, LIMIT, REFUSED, message
from tests.equipment.tool_tokenizer import tool_tokenizer
from tests.server.test_scheduler import is_idle, wait

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def live(tiny):
    """A server whose template has tools and reasoning, with small limits."""
    pair, tokenizer = tiny
    limits = Limits(max_tokens=4, body_bytes=LIMIT, context=1000)
    settings = Settings(access=Access(port=0), limits=limits)
    tokenizer = tool_tokenizer(tokenizer.eos_token_ids)
    with LiveServer(pair, tokenizer, settings, aliases={"a*": "tiny"}) as server:
        yield server


def send(live, path, body):
    """Send a body, as JSON if it is not bytes."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return live.http.post(path, content=data, headers=JSON)


def strict(text):
    """The value of a JSON text, which may have no NaN."""

    def refuse(name):
        raise ValueError(name)

    return json.loads(text, parse_constant=refuse)


def check_next(live):
    """Assert that the server answers, and that nothing is left behind."""
    assert send(live, CHATS, ASK).status_code == 200
    wait(lambda: is_idle(live))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", REFUSED)
def test_a_request_is_refused_in_the_shape_of_its_api(live, name, stream):
    path, body, word = REFUSED[name]
    if stream and isinstance(body, dict):
        body = {"stream": True} | body
    response = send(live, path, body)
    if stream and response.status_code == 200:  # as Codex wants it
        assert path == "/v1/responses" and '"context_length_exceeded"' in response.text
        return
    assert response.status_code == (413 if name == "above the limit" else 400) or (
        response.status_code == 404 and word in ("served", "not served")
    ), response.text
    check_error(path, strict(response.text))
    assert word in response.text
    assert all(value.isprintable() for value in response.headers.values())


def test_the_server_answers_after_all_of_them(live):
    assert len(REFUSED) >= 60
    check_next(live)


@pytest.mark.parametrize("name", ANSWERED)
def test_an_odd_request_is_answered(live, name):
    path, body = ANSWERED[name]
    response = send(live, path, body)
    assert response.status_code == 200, response.text
    fields = body if isinstance(body, dict) else ASK
    check_answer(path, fields, strict(response.text))


@pytest.mark.parametrize("stream", [False, True])
def test_a_grammar_that_grows_too_large_while_it_is_followed(live, stream):
    rules = "".join(f"a{i}: a{i + 1} a{i + 1}\n" for i in range(40))
    grammar = f'start: a0\n{rules}a40: "x"'
    fields = ASK | {"structured_outputs": {"grammar": grammar}, "stream": stream}
    response = send(live, CHATS, fields)
    if stream:
        *_, last = data_of(response.text.split("\n\n"))
        check_error(CHATS, last)
    else:
        assert response.status_code == 400
        check_error(CHATS, response.json())
    check_next(live)


def test_arguments_that_are_nested_too_deeply_stay_text():
    for text in ("[" * 100_000, '{"a":' * 80 + "1" + "}" * 80):
        assert template_call("", "f", text)["function"]["arguments"] == text
    call = template_call("", "f", '{"a": {"b": 1}}')
    assert call["function"]["arguments"] == {"a": {"b": 1}}


def fuzz(live, seeds):
    """Send mutated bodies, and check what comes back."""
    statuses = set()
    for seed in seeds:
        chance = random.Random(seed)
        path, body = chance.choice(VALID)
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            body = mutate(body, chance)
        response = send(live, path, encode(body))
        statuses.add(response.status_code)
        if response.status_code == 200 and body.get("stream") is not True:
            check_answer(path, body, strict(response.text))
        elif response.status_code == 200:
            assert (
                response.text.endswith("\n\n") and "server_error" not in response.text
            )
        else:
            assert response.status_code < 500, (seed, path, response.text)
            check_error(path, strict(response.text))
    assert {200, 400} <= statuses <= {200, 400, 404}
    check_next(live)


@pytest.mark.slow
def test_mutated_bodies_are_answered_or_refused(live):
    fuzz(live, range(40))


@pytest.mark.full("server")
def test_more_mutated_bodies_are_answered_or_refused(live):
    fuzz(live, range(1000, 1600))


@pytest.mark.slow
@pytest.mark.parametrize(
    "field",
    [
        pytest.param("content", marks=pytest.mark.full("server")),  # is tokenized
        *("model", "stop", "user", "unknown"),
    ],
)
def test_ten_megabytes_in_a_field(tiny, field):
    with LiveServer(*tiny) as live:
        text = "word " * (2 << 20)
        fields = ASK | (message(text) if field == "content" else {field: text})
        response = send(live, CHATS, fields)
        refused = field in ("content", "model")
        assert (response.status_code == 200) != refused
        assert len(response.text) < 5000
        check_next(live)


def test_a_slow_grammar_delays_nobody(live, monkeypatch):
    """A grammar is compiled beside the other requests' prompts."""
    from dflash_mlx.server import prompt

    begun, gate = threading.Event(), threading.Event()
    make = prompt.make_grammar

    def slow(tokenizer, constraint, *more):
        if constraint is not None:
            begun.set()
            assert gate.wait(20)
        return make(tokenizer, constraint, *more)

    monkeypatch.setattr(prompt, "make_grammar", slow)
    got = []
    fields = ASK | {"response_format": {"type": "json_object"}}
    thread = threading.Thread(target=lambda: got.append(send(live, CHATS, fields)))
    thread.start()
    assert begun.wait(10)
    began = time.monotonic()
    check_next(live)
    assert time.monotonic() - began < 2 and not got
    gate.set()
    thread.join(20)
    assert got[0].status_code == 200


def test_arguments_of_the_tokenizer_are_no_variables_of_the_template(live):
    kwargs = {"chat_template": "{{ 1 }}", "tokenize": False, "tools": [1]}
    plain = send(live, CHATS, ASK)
    response = send(live, CHATS, ASK | {"chat_template_kwargs": kwargs})
    used, wanted = (each.json()["usage"]["prompt_tokens"] for each in (response, plain))
    assert used == wanted
    assert "chat_template_kwargs.chat_template" in response.headers["x-dflash-warning"]


def test_a_warning_header_is_one_short_printable_line(live):
    kwargs = {"a\r\nx-evil: 1\x00": 1, "é\u2028\x85\x7f": 2, "x" * 99_999: 3}
    response = send(live, CHATS, ASK | {"chat_template_kwargs": kwargs})
    assert response.status_code == 200 and "x-evil" not in response.headers
    (warning,) = response.headers.get_list("x-dflash-warning")
    assert warning.isascii() and warning.isprintable() and len(warning) < 1500
    many = warning_headers(tuple(f"{i} was ignored." for i in range(10_000)))
    assert len(many["x-dflash-warning"]) < 1500


def test_errors_are_one_short_printable_line():
    error = RequestError("a\r\nb\x00\x1b[2J\u202e" + "é" * 10**6, param="p\n" * 999)
    assert error.message.startswith("a b\\x00\\x1b[2J\\u202eéé")
    assert len(error.message) < 1100 and len(error.param) < 250
    assert one_line("as it is, é") == "as it is, é"


def test_logs_have_no_prompts_and_no_forged_lines(live, caplog):
    caplog.set_level(logging.INFO)
    secret = "secret\r\nreq_1 /v1 tiny: forged\x1b[2J"
    for fields in (
        ASK | message(secret),
        ASK | message(secret) | {"model": secret},
        ASK | message(secret) | {"chat_template_kwargs": {secret: 1}},
        ASK | {"messages": [{"role": "system", "content": secret}] * 3},
        ASK | message(secret) | {"model": "a" + secret},
    ):
        assert send(live, CHATS, fields).status_code in (200, 400, 404)
    assert caplog.records
    for record in caplog.records:
        assert "secret" not in record.getMessage()
    caplog.set_level(logging.DEBUG, "dflash_mlx.server")
    fields = ASK | message("a\u2028b\x85\x9b") | {"stop": "\r\n"}
    assert send(live, CHATS, fields).status_code == 200
    lines = [record.getMessage() for record in caplog.records]
    assert any("messages" in line for line in lines)
    assert all(line.isprintable() for line in lines)


def test_names_make_no_labels(live):
    long = send(live, CHATS, ASK | {"model": "a" * 3000})
    assert long.status_code == 404  # answers would repeat it
    for name in ("a1", "a2\r\n", "nobody"):
        send(live, CHATS, ASK | {"model": name})
    text = live.http.get("/metrics").text
    assert 'model_name="tiny"' in text
    assert 'model_name="a' not in text and "nobody" not in text


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "%00", "%0d%0ax:y", "["],
)
def test_names_in_the_path_are_names(live, name):
    response = live.http.get(f"/v1/models/{name}")
    assert response.status_code == 404
    check_error("/v1/models", strict(response.text))
    check_next(live)
