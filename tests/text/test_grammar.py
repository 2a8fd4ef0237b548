"""Which grammars are compiled, what they allow, and how others are refused."""

import json
import time

import jsonschema
import pytest
from mlx_lm.tokenizer_utils import TokenizerWrapper

from dflash_mlx.errors import GrammarError
from dflash_mlx.text import limits
from dflash_mlx.text.grammar import Grammar
from tests.equipment.grammars import encode, tiny_tokenizer

RECORD = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", None]}},
    "required": ["a"],
    "additionalProperties": False,
}


def allows(grammar, text):
    """Whether a grammar allows a whole text, token by token."""
    tokens = [*encode(text), 2]
    return grammar.start().walk(tokens, 512).legal == len(tokens)


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1}',
        '{"a": -12, "b": "x"}',
        '{\n  "a": 3,\n  "b": null\n}',
        '{"a": 1, "b": "y"}',
        '{"b": "x", "a": 1}',
        '{"a": 1, "c": 2}',
        '{"b": "x"}',
        '{"a": 1.5}',
        "{}",
        '{"a": 1',
        ' {"a": 1}',
        '{"a": 1} ',
        '{"a":     1}',
        '{\n\n"a": 1}',
    ],
)
def test_a_schema_allows_what_is_valid_and_in_its_order(text):
    try:
        jsonschema.validate(json.loads(text), RECORD)
        valid = True
    except (ValueError, jsonschema.ValidationError):
        valid = False
    order = text.find('"a"') < text.find('"b"') or '"b"' not in text
    blank = text != text.strip() or "     " in text or "\n\n" in text
    for schema in (RECORD, json.dumps(RECORD)):
        grammar = Grammar.of_json_schema(tiny_tokenizer(), schema)
        assert allows(grammar, text) == (valid and order and not blank)


def test_any_object():
    grammar = Grammar.of_json_object(tiny_tokenizer())
    assert allows(grammar, '{"x": [1, {"y": null}], "z": "w"}')
    assert not allows(grammar, "[1]") and not allows(grammar, '"x"')


def test_a_regular_expression_matches_the_whole_text():
    grammar = Grammar.of_regex(tiny_tokenizer(), "(yes|no|may be) [0-9]{2}")
    assert allows(grammar, "may be 12")
    assert not allows(grammar, "maybe 12") and not allows(grammar, "no 123")


def test_lark_with_special_tokens():
    grammar = Grammar.of_lark(
        tiny_tokenizer(), 'start: <|im_start|> NAME "!"\nNAME: /[a-z]+/'
    )
    matcher = grammar.start()
    assert matcher.walk([1, *encode("abc!"), 2], 512).legal == 1 + 4 + 1
    assert matcher.walk(encode("<|im_start|>abc!"), 512).legal == 5
    text = encode("<")  # the text of a special token is not the token
    assert matcher.walk(text, 512).legal == 0


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"not": {"type": "string"}}, "^not is not supported in a JSON schema"),
        (
            {"type": "array", "uniqueItems": True, "contains": {}},
            "contains and uniqueItems are not supported",
        ),
        ({"type": "string", "format": "foo"}, "The format foo is not supported"),
        ({"oneOf": [{"type": "string"}, {"maxLength": 3}]}, "oneOf is not supported"),
        ({"type": "integer", "minimum": 5, "maximum": 2}, "minimum .5. is greater"),
        ({"$ref": "#/$defs/x"}, "'/.defs/x' does not exist"),
        ({"$ref": "https://example.com/x"}, "https://example.com/x"),
        ({"type": "word"}, "Invalid type: word"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"type": {1, 2}}, "is not JSON"),
        ({"const": float("nan")}, "is not JSON"),
        ("{", "is not JSON"),
        ("[1]", "must be an object, but is a list"),
        (False, "which allows nothing"),
    ],
)
def test_a_schema_that_cannot_be_had_is_refused_by_its_keyword(schema, words):
    with pytest.raises(GrammarError, match=words) as error:
        Grammar.of_json_schema(tiny_tokenizer(), schema)
    assert "\n" not in str(error.value) and error.value.exit_code == 2


def test_a_keyword_is_ignored_only_if_the_caller_says_so():
    lenient = {"type": "string", "not": {}, "x-guidance": {"lenient": True}}
    with pytest.raises(GrammarError, match="not is not supported"):
        Grammar.of_json_schema(tiny_tokenizer(), lenient)
    grammar = Grammar.of_json_schema(tiny_tokenizer(), lenient, strict=False)
    assert allows(grammar, '"ab"')


@pytest.mark.parametrize(
    ("make", "text", "words"),
    [
        (Grammar.of_regex, "(a", "regular expression cannot be used: unclosed group"),
        (Grammar.of_regex, "a(?!b)", "look-around"),
        (Grammar.of_lark, "start: foo", 'unknown name: "foo"'),
        (Grammar.of_lark, "start: <foo>", 'unknown special token: "<foo>"'),
        (Grammar.of_lark, 'word: "a"', "no start rule"),
        (Grammar.of_lark, "", "Empty grammar"),
        (Grammar.of_lark, 'start: "a', "lexer error"),
        (Grammar.of_lark, f"start: {'(' * 999}", "too deeply nested"),
    ],
)
def test_a_grammar_that_is_none_is_refused(make, text, words):
    with pytest.raises(GrammarError, match=words) as error:
        make(tiny_tokenizer(), text)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def nested(depth):
    schema = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


PATTERNS = [{"type": "string", "pattern": f"^.*a{i}.*$"} for i in range(40)]


@pytest.mark.parametrize(
    ("make", "text", "words"),
    [
        (Grammar.of_json_schema, nested(200), "nested too deeply"),
        (Grammar.of_json_schema, nested(900), "nested too deeply"),
        (Grammar.of_json_schema, '{"items":' * 10**5, "nested too deeply"),
        (Grammar.of_json_schema, {"enum": ["x" * 2**18]}, "characters, of 262,144"),
        (Grammar.of_regex, "a" * 2**19, "characters, of 262,144"),
        (Grammar.of_lark, "#" * 2**19, "characters, of 262,144"),
        (Grammar.of_json_schema, {"allOf": PATTERNS}, "JSON schema is too complex"),
        (Grammar.of_json_schema, {"multipleOf": 999983}, "too complex"),
        (
            Grammar.of_lark,
            "start: A\nA: " + " & ".join(f"/.*a{i}.*/" for i in range(40)),
            "grammar is too complex",
        ),
    ],
    ids=range(9),
)
def test_a_large_grammar_is_refused_quickly(make, text, words, monkeypatch):
    monkeypatch.setattr(limits, "SECONDS", 0.3)
    begun = time.monotonic()
    with pytest.raises(GrammarError, match=words):
        make(tiny_tokenizer(), text)
    assert time.monotonic() - begun < 2


def test_what_may_take_long_is_tried_once():
    limits.compiles.cache_clear()
    for _ in range(3):
        Grammar.of_json_schema(tiny_tokenizer(), {"type": "string", "format": "date"})
        Grammar.of_json_schema(tiny_tokenizer(), RECORD)
    assert limits.compiles.cache_info().misses == 1


def test_markers_are_text():
    grammar = Grammar.of_json_object(tiny_tokenizer())
    for markers in ((), ("",), ("x", "")):
        with pytest.raises(GrammarError, match="at least one character"):
            grammar.after(*markers)
    assert grammar.after("x").start().active is False
    assert grammar.start().active is True


def test_tokenizers_that_cannot_be_used(monkeypatch):
    fast = tiny_tokenizer()._tokenizer
    with monkeypatch.context() as patch:
        patch.setattr(type(fast), "is_fast", property(lambda self: False))
        with pytest.raises(GrammarError, match="library tokenizers"):
            Grammar.of_regex(TokenizerWrapper(fast), "a")
    nameless = TokenizerWrapper(fast, eos_token_ids=[])
    nameless._eos_token_ids = {10**6}
    with pytest.raises(GrammarError, match="no token that ends an answer"):
        Grammar.of_regex(nameless, "a")
    assert allows(Grammar.of_regex(fast, "a"), "a")  # without mlx-lm's wrapper
