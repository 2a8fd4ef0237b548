"""Which tokens have logprobs, and where they are in the text."""

import pytest

from tests.equipment.live_server import LiveServer, data_of
from tests.equipment.tool_tokenizer import tool_tokenizer
from tests.server.test_dialects import say

MESSAGES = [{"role": "user", "content": "What is 12 + 34?"}]


@pytest.fixture(scope="module")
def live(tiny):
    """A server whose chat template has reasoning."""
    pair, tokenizer = tiny
    with LiveServer(pair, tool_tokenizer(tokenizer.eos_token_ids)) as server:
        yield server


def test_logprobs_are_those_of_the_answer_without_its_reasoning(live, monkeypatch):
    say(monkeypatch, "<think>\nHm.\n</think>\n\nHello.")
    body = {"messages": MESSAGES, "logprobs": True, "top_logprobs": 3}
    (choice,) = live.post("/v1/chat/completions", body).json()["choices"]
    assert choice["message"]["reasoning_content"].strip() == "Hm."
    assert choice["message"]["content"] == "Hello."
    tokens = choice["logprobs"]["content"]
    assert "".join(each["token"] for each in tokens).strip() == "Hello."
    for each in tokens:
        values = [other["logprob"] for other in each["top_logprobs"]]
        assert 1 <= len(values) <= 3 and values == sorted(values, reverse=True)
        assert each["logprob"] <= values[0]


def test_places_of_tokens_are_counted_for_each_choice(server):
    body = {"prompt": "One, two,", "n": 2, "max_tokens": 4, "logprobs": 1}
    body["logit_bias"] = {"2": -100}  # does not end
    whole = server.post("/v1/completions", body).json()
    frames = data_of(server.frames("/v1/completions", body))
    choices = [choice for frame in frames for choice in frame["choices"]]
    for each in whole["choices"]:
        offsets = each["logprobs"]["text_offset"]
        assert offsets[0] == 0 and offsets == sorted(offsets)
        streamed = [
            offset
            for choice in choices
            if choice["index"] == each["index"]
            for offset in choice["logprobs"]["text_offset"]
        ]
        assert streamed == offsets
