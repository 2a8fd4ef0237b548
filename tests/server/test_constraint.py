"""Structured output through the server."""

import json
import re

import jsonschema
import openai
import pydantic
import pytest

from dflash_mlx.server.constraint import lark_regex

MESSAGES = [{"role": "user", "content": "What is 12 + 34?"}]
SCHEMA = {
    "type": "object",
    "properties": {
        "sum": {"type": "integer"},
        "words": {"type": "array", "items": {"enum": ["one", "two"]}, "maxItems": 2},
    },
    "required": ["sum", "words"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def formatted(schema, **more):
    return {
        "type": "json_schema",
        "json_schema": {"name": "answer", "strict": True, "schema": schema, **more},
    }


@pytest.mark.parametrize("temperature", [0, 2])
def test_an_answer_follows_its_schema(server, temperature):
    more = {"temperature": temperature, "seed": 1}
    answer = server.chat("Hello!", response_format=formatted(SCHEMA), **more)
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "stop"
    jsonschema.validate(json.loads(choice["message"]["content"]), SCHEMA)


def test_the_sdk_parses_an_answer(client):
    class Answer(pydantic.BaseModel):
        sum: int
        certain: bool

    answer = client.chat.completions.parse(
        model="tiny", messages=MESSAGES, response_format=Answer
    )
    assert isinstance(answer.choices[0].message.parsed, Answer)


def test_other_kinds_of_constraints(server):
    def content(**more):
        return server.chat("Hello!", **more)["choices"][0]["message"]

    found = content(structured_outputs={"choice": ['a "b"', "c\nd"]})["content"]
    assert found in ('a "b"', "c\nd")
    found = content(structured_outputs={"regex": "[ab]{3}-[0-9]{2}"})["content"]
    assert re.fullmatch("[ab]{3}-[0-9]{2}", found)
    found = content(structured_outputs={"grammar": 'start: "x" | "yy"'})["content"]
    assert found in ("x", "yy")
    found = content(structured_outputs={"json": SCHEMA})["content"]
    jsonschema.validate(json.loads(found), SCHEMA)
    loose = {"type": "json_object", "schema": SCHEMA}
    found = content(response_format=loose)["content"]
    jsonschema.validate(json.loads(found), SCHEMA)


def test_an_answer_that_is_cut_says_so(server):
    answer = server.chat("Hello!", response_format=formatted(SCHEMA), max_tokens=3)
    assert answer["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("schema", "word"),
    [
        ({"not": {"type": "string"}}, "not"),
        ({"type": "string", "format": "colour"}, "colour"),
        ({"type": "thing"}, "thing"),
    ],
)
def test_a_schema_that_cannot_be_had_names_its_keyword(server, schema, word):
    body = {"messages": MESSAGES, "response_format": formatted(schema)}
    response = server.post("/v1/chat/completions", body)
    error = response.json()["error"]
    assert response.status_code == 400 and word in error["message"]
    assert error["param"] == "response_format" and error["code"] == "invalid_grammar"


def test_bad_patterns_are_refused(server):
    for outputs in ({"regex": "("}, {"grammar": "start: nothing"}):
        body = {"messages": MESSAGES, "structured_outputs": outputs}
        response = server.post("/v1/chat/completions", body)
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "structured_outputs"


def test_completions_are_constrained_too(server):
    body = {"prompt": "Numbers:", "structured_outputs": {"regex": "[0-9]{4}"}}
    text = server.post("/v1/completions", body).json()["choices"][0]["text"]
    assert re.fullmatch("[0-9]{4}", text)


@pytest.mark.parametrize(
    "pattern, found",
    [
        ("a/b", r"/a\/b/"),
        (r"a\/b", r"/a\/b/"),
        (r"a\\/b", r"/a\\\/b/"),
        ("a\nb", r"/a\nb/"),
        ("[0-9]+", "/[0-9]+/"),
    ],
)
def test_a_regular_expression_in_lark(pattern, found):
    assert lark_regex(pattern) == found
