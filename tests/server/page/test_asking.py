"""Asking on the chat page: sending, stopping, retrying, editing, errors, waiting."""

import re

import pytest

from dflash_mlx.server.settings import Decoding, Settings
from tests.equipment import chromium
from tests.equipment.chat_page import ANSWERED, LAST, send
from tests.equipment.live_server import ACCESS, LiveServer

pytestmark = pytest.mark.slow


def test_a_message_is_sent_and_its_answer_streams(page, server):
    send(page, "slow", wait=False)
    server.open_gate(2)
    page.wait(f"$('log').innerText.includes('word1') && {LAST!r}")
    page.wait("document.querySelector('.figures').innerText.includes('48.3 tokens/s')")
    assert "word2" not in page.text(LAST) and page.shows("#stop")
    assert not page.shows(".retry") and not page.shows(".edit")
    server.open_gate(8)
    page.wait(ANSWERED)
    assert " ".join(f"word{i}" for i in range(10)) in page.text(LAST)
    assert page.text(".user .text") == "slow" and page.shows("#send")
    figures = " ".join(page.text(".figures").split())
    assert figures == (
        "51.5 tokens/s 4.0 tokens/round 3.1× plain 100 % drafted"
        " 0.12 s to first token 10 tokens"
    )
    assert page.text("#context").strip() == "34 of 4,096 tokens of context"
    (body,) = server.bodies
    assert body == {
        "model": "tiny",
        "stream": True,
        "stream_options": {"include_usage": True},
        "dflash": {"drafts": True},
        "messages": [{"role": "user", "content": "slow"}],
    }


def test_the_conversation_goes_with_the_next_message(page, server):
    send(page, "one")
    send(page, "two")
    assert server.bodies[1]["messages"] == [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "You said: one"},
        {"role": "user", "content": "two"},
    ]


def test_escape_stops_the_answer_and_keeps_what_came(page, server):
    send(page, "slow", wait=False)
    server.open_gate()
    page.wait("$('log').innerText.includes('word0')")
    page.press("Escape")
    page.wait(ANSWERED)
    assert "word0" in page.text(LAST)
    assert page.text(f"{LAST} .note") == "You stopped this answer."
    chromium.wait(lambda: server.cut == 1, "the server saw the page disconnect")
    assert page.js("document.activeElement.id") == "input"


def test_the_stop_button_stops(page, server):
    send(page, "slow", wait=False)
    page.click("#stop")
    page.wait(ANSWERED)
    assert page.shows("#send")


def test_retry_asks_again_in_place_of_the_last_answer(page, server):
    send(page, "one")
    send(page, "two")
    page.click(f"{LAST} .retry")
    page.wait(f"{ANSWERED} && $('log').innerText.includes('two')")
    assert page.count("article") == 4
    assert server.bodies[2] == server.bodies[1]
    assert not page.shows(".assistant .retry")  # of the first answer


def test_the_last_message_is_edited(page, server):
    send(page, "one")
    send(page, "two")
    page.press("ArrowUp")
    assert page.js("$('input').value") == "two" and page.shows("#editing")
    page.press("Escape")
    assert page.js("$('input').value") == "" and not page.shows("#editing")
    page.click(".user ~ .user .edit")
    page.type(" more")
    page.press("Enter")
    page.wait(ANSWERED)
    assert page.count("article") == 4
    assert server.bodies[2]["messages"][1:] == [
        {"role": "assistant", "content": "You said: one"},
        {"role": "user", "content": "two more"},
    ]


def test_settings_go_into_the_request(page, server):
    page.click("#settings-open")
    for name, value in (
        ("system", "Be brief."),
        ("temperature", "0.7"),
        ("top_p", "3"),  # out of range: not taken
        ("max_tokens", "64"),
        ("seed", "5"),
    ):
        page.js(f"document.querySelector('[name={name}]').focus()")
        page.type(value)
    page.js(
        "{const s = document.querySelector('[name=thinking]'); s.value = 'off';"
        "s.dispatchEvent(new Event('input', {bubbles: true}))}"
    )
    assert page.count("#settings :is(input, select, textarea):invalid") == 1
    page.press("Escape")
    page.js("$('model').value = 'other'; $('model').dispatchEvent(new Event('change'))")
    page.reload()
    page.wait("models.length")
    send(page, "hi")
    (body,) = server.bodies
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert body["model"] == "other"
    wanted = {"temperature": 0.7, "max_tokens": 64, "seed": 5}
    assert {k: body[k] for k in wanted} == wanted and "top_p" not in body
    assert body["chat_template_kwargs"] == {"enable_thinking": False}


def test_a_key_is_asked_for_and_kept_for_the_session(server, fresh):
    server.key, page = "secret", fresh
    page.reload()
    page.wait("$('key').open")
    page.press("Escape")
    page.wait("$('state').innerText === 'key needed'")
    assert page.text("#condition span") == "The server asks for an API key."
    page.click("#condition button")
    page.wait("$('key').open && !$('refused').checkVisibility()")
    page.type("wrong")
    page.press("Enter")
    page.wait("$('key').open && $('refused').checkVisibility()")
    page.type("secret")
    page.press("Enter")
    page.wait("$('state').innerText === 'ready' && models.length")
    send(page, "hello")
    assert "You said: hello" in page.text(LAST)
    assert page.js("Object.values(sessionStorage)") == ["secret"]
    assert "secret" not in page.js("JSON.stringify(localStorage)")


@pytest.mark.parametrize(
    "message, said",
    [
        ("busy", "The queue is full: 8 requests wait. Try again in 3 seconds."),
        ("wrong", "temperature is 9, which is above 5. Change the message or"),
        ("crash", "The model failed. Retry; if it fails again, read the server's log."),
        ("error", "The GPU ran out of memory. Retry; if it fails again, read the"),
        ("broken", "The connection broke in the middle of the answer. Retry it when"),
    ],
)
def test_an_error_is_a_sentence_with_what_to_do(page, server, message, said):
    send(page, message, wait=False)
    if message == "broken":
        page.wait("$('log').innerText.includes('Half an')")
        server.open_gate(2)
    page.wait(ANSWERED)
    assert page.text(f"{LAST} [role=alert]").startswith(said)
    if message in ("error", "broken"):
        assert "Half an" in page.text(LAST)
    server.bodies.clear()
    page.click(f"{LAST} .retry")
    page.wait(ANSWERED)
    assert [m["content"] for m in server.bodies[0]["messages"]] == [message]
    assert page.count("article") == 2


def test_the_page_connects_again_when_the_server_restarts(page, server):
    send(page, "slow", wait=False)
    server.open_gate()
    page.wait("$('log').innerText.includes('word0')")
    server.stop()
    page.wait(ANSWERED)
    assert page.text(f"{LAST} .error").startswith("The connection broke")
    page.wait("$('state').innerText === 'no answer'")
    assert "dflash-mlx serve" in page.text("#condition")
    send(page, "nobody hears")
    assert page.text(f"{LAST} .error").startswith("The server does not answer.")
    server.start()
    page.wait("$('state').innerText === 'ready'")
    assert not page.shows("#condition")
    page.click(f"{LAST} .retry")
    page.wait(f"{ANSWERED} && $('log').innerText.includes('You said')")


def test_waiting_loading_and_a_busy_server_are_shown(page, server):
    server.status |= {"running": 1, "waiting": 2}
    page.js("poll()")
    page.wait("$('state').innerText === '1 running, 2 waiting'")
    assert page.text("#condition span") == (
        "The server is busy: 1 running, 2 waiting. A message waits for its turn."
    )
    server.status |= {"running": 0, "waiting": 0, "state": "loading", "model": "other"}
    page.js("poll()")
    page.wait("$('state').innerText === 'loading'")
    assert page.text("#condition").startswith("other is loading.")
    send(page, "queue", wait=False)
    page.wait("$('log').innerText.includes('Waiting for 2 earlier requests')")
    server.open_gate()
    page.wait("$('log').innerText.includes('512 of 2,048 tokens')")
    bar = f"document.querySelector('{LAST} progress')"
    assert page.js(f"{bar}.value / {bar}.max") == 0.25
    server.open_gate()
    page.wait(ANSWERED)
    assert not page.shows(f"{LAST} progress") and not page.shows(f"{LAST} .note")


def test_the_embedded_pair_answers_on_the_page(browser, tiny):
    """The page and the server itself agree on the API, the policy and the drafts."""
    settings = Settings(access=ACCESS, decoding=Decoding(block_size=8))
    with LiveServer(*tiny, settings) as live, browser.open(live.url) as page:
        page.wait("models.length && server.kind === 'ready'")
        send(page, "Write the 9 times table up to 12.")
        assert "9 x 12 = 108" in page.text(LAST)
        shown = " ".join(page.text(".figures").split())
        assert re.match(
            r"[\d.,]+ tokens/s [\d.]+ tokens/round [\d.]+× plain \d+ %", shown
        )
        assert page.count(".drafted") > 5
        assert re.match(r"\d+ of 8,192 tokens of context", page.text("#context"))
        first = page.text(LAST + " > .text")
        page.js("Object.assign(settings, {max_tokens: 9, thinking: 'off'})")
        page.click(f"{LAST} .retry")
        page.wait(f"{ANSWERED} && $('log').innerText.includes('cut at the limit')")
        assert first.startswith(page.text(LAST + " > .text"))
        page.js("settings.max_tokens = 300")
        page.click(f"{LAST} .retry")
        page.wait(f"{ANSWERED} && $('log').innerText.includes('enable_thinking')")
        page.js("settings.temperature = -1")
        page.click(f"{LAST} .retry")
        page.wait(f"{ANSWERED} && document.querySelector('{LAST} .error').innerText")
        assert "temperature" in page.text(f"{LAST} .error")
        headers = live.http.get("/").headers
        assert headers["content-security-policy"] == "frame-ancestors 'none'"
        assert headers["cache-control"] == "no-cache"
        assert not page.errors
