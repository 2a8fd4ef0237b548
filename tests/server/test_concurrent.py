"""Requests that are answered at once: each says what it says alone."""

import random
import threading
import time

import pytest

from dflash_mlx.server.settings import Access, Decoding, Limits, Settings
from tests.equipment.live_server import LiveServer
from tests.server.test_scheduler import LONG, body, is_idle, send, wait

PATH = "/v1/chat/completions"


def settings(concurrent: int) -> Settings:
    return Settings(
        access=Access(port=0),
        limits=Limits(max_concurrent=concurrent),
        decoding=Decoding(prefill_step_size=16),
    )


@pytest.fixture(scope="module")
def many(tiny):
    with LiveServer(*tiny, settings(4)) as live:
        yield live


def requests(count: int) -> list[dict]:
    """Requests of different lengths, each with a code word of its own."""
    draw, found = random.Random(1), []
    for i in range(count):
        text = f"What is {i} + {3 * i}? " * draw.randint(1, 6)
        more = {"temperature": draw.choice([0, 2.0]), "seed": i}
        found.append(body(text, max_tokens=draw.randint(5, 40), **more))
    return found


def text_of(response) -> str:
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"]


@pytest.mark.slow
def test_parallel_answers_are_those_of_one_after_the_other(tiny, many):
    asked = requests(10)
    with LiveServer(*tiny, settings(1)) as single:
        wanted = [text_of(single.post(PATH, each)) for each in asked]
    found, most = [None] * len(asked), []

    def ask(i):
        found[i] = text_of(many.post(PATH, asked[i] | {"n": 1}))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(asked))]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        most.append(len(many.scheduler.running))
        time.sleep(0.002)
    assert found == wanted
    assert max(most) == 4 and is_idle(many)


def test_a_short_request_does_not_wait_for_a_long_prompt(many):
    long = send(many, body(LONG, stream=True))
    wait(lambda: many.scheduler.running)
    assert many.chat("Hello!", max_tokens=2)["usage"]["completion_tokens"] == 2
    assert many.scheduler.running  # the long prompt is not through yet
    long.close()
    wait(lambda: is_idle(many))


def test_a_cut_request_frees_its_place_and_no_other(many):
    slow = body("Count.", max_tokens=300, logit_bias={"2": -100})
    answers = []
    thread = threading.Thread(target=lambda: answers.append(many.post(PATH, slow)))
    thread.start()
    wait(lambda: many.scheduler.running)
    cut = send(many, body(LONG, stream=True))
    wait(lambda: len(many.scheduler.running) == 2)
    cut.close()
    wait(lambda: len(many.scheduler.running) < 2)
    thread.join(60)
    (answer,) = answers
    assert answer.json()["usage"]["completion_tokens"] == 300
    assert is_idle(many) or wait(lambda: is_idle(many)) < 1


def test_a_bug_in_one_answer_ends_no_other(many, monkeypatch):
    from dflash_mlx.server.answer import ChoiceAnswer

    finish = ChoiceAnswer._finish

    def failing(self, last):
        if self.turn.request.max_tokens == 7:
            raise KeyError("bug")
        finish(self, last)

    monkeypatch.setattr(ChoiceAnswer, "_finish", failing)
    found = {}

    def ask(tokens):
        found[tokens] = many.post(PATH, body("What is 1 + 1?", max_tokens=tokens))

    threads = [threading.Thread(target=ask, args=(n,)) for n in (7, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found[7].status_code == 500 and found[8].status_code == 200
