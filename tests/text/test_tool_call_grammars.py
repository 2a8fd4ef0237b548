"""Grammars of calls: what they allow is what the parser reads, and fits the schema."""

import random

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from dflash_mlx.text.stream import overlap
from dflash_mlx.text.tool_calls import formats
from tests.equipment import tool_writers
from tests.equipment.tool_samples import parse

jsonschema = pytest.importorskip("jsonschema")
llguidance = pytest.importorskip("llguidance")

PLACE = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "zip": {"type": "integer"}},
    "required": ["city"],
    "additionalProperties": False,
}
PARAMETERS = {
    "type": "object",
    "$defs": {
        "Place": PLACE,
        "Tree": {
            "type": "object",
            "properties": {"of": {"type": "array", "items": {"$ref": "#/$defs/Tree"}}},
            "additionalProperties": False,
        },
    },
    "properties": {
        "days": {"type": "integer", "minimum": 1, "maximum": 99},
        "exact": {"type": "boolean"},
        "place": {"$ref": "#/$defs/Place"},
        "query": {"type": "string"},
        "tree": {"$ref": "#/$defs/Tree"},
        "unit": {"type": "string", "enum": ["C", "F"]},
        "when": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    },
    "required": ["place", "query"],
    "additionalProperties": False,
}
NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
TOOLS = [
    {"type": "function", "function": {"name": "find", "parameters": PARAMETERS}},
    {"type": "function", "function": {"name": "get-time", "parameters": NOTHING}},
]
SCHEMAS = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOLS}
HERE = {"city": "é, 日本", "zip": 7}
FIND = {"days": 5, "place": HERE, "query": 'a\n"b" {', "unit": "C"}
CALL, TIME = ("", "find", FIND), ("", "get-time", {})


def harmony(*calls):
    parts = [
        tool_writers.harmony(name, arguments, tool_writers.CHANNEL)
        for _, name, arguments in calls
    ]
    return "<|start|>assistant".join(parts)


def kimi(*calls):
    return tool_writers.kimi(*tool_writers.numbered(*calls))


WRITERS = {
    formats.HERMES: tool_writers.hermes,
    formats.QWEN: tool_writers.qwen,
    formats.LLAMA: tool_writers.llama,
    formats.KIMI_K2: kimi,
    formats.HARMONY: harmony,
    formats.GEMMA_4: tool_writers.gemma,
}
every_format = pytest.mark.parametrize("format", WRITERS, ids=lambda f: f.name)
EOS = 256


def make_tokenizer(tokens):
    """A tokenizer of bytes, with tokens of their own for markers."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({char: i for i, char in enumerate(letters)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    words = [AddedToken(word, special=True) for word in ("<eos>", *tokens)]
    inner.add_special_tokens(words)
    return inner


class Checked:
    """A grammar compiled for a tokenizer that has some of the markers as tokens."""

    def __init__(self, format, tokens=None, tools=TOOLS, **options):
        self.inner = make_tokenizer(format.tokens if tokens is None else tokens)
        self.tokens = llguidance.LLTokenizer(self.inner.to_str(), eos_token=EOS)
        text = format.grammar(tools, special=tokens, **options)
        self.source = llguidance.LLMatcher.grammar_from_lark(text)

    def matcher(self):
        matcher = llguidance.LLMatcher(self.tokens, self.source, log_level=0)
        assert not matcher.is_error(), matcher.get_error()
        return matcher

    def allows(self, text):
        """Whether a text is allowed as a whole."""
        matcher = self.matcher()
        ids = self.inner.encode(text).ids
        return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


@every_format
@pytest.mark.parametrize("is_special", [True, False])
def test_calls_as_they_are_written_are_allowed(format, is_special):
    write = WRITERS[format]
    tokens = None if is_special else ()
    several = Checked(format, tokens, parallel=True)
    single = Checked(format, tokens, parallel=False)
    for calls in ([CALL], [TIME]):
        assert several.allows(write(*calls)) and single.allows(write(*calls))
    assert several.allows(write(CALL, TIME, CALL))
    assert not single.allows(write(CALL, TIME))


@every_format
def test_a_grammar_may_begin_behind_a_trigger(format):
    for parallel, calls in ((False, [CALL]), (True, [CALL, TIME])):
        checked = Checked(format, parallel=parallel, opened=True)
        text = WRITERS[format](*calls)
        (trigger,) = format.triggers
        text = text.partition(trigger)[2] if trigger in text else text
        assert checked.allows(text)


def test_the_forms_of_harmonys_header():
    opened = Checked(formats.HARMONY, parallel=False, opened=True)
    for header in (tool_writers.CHANNEL, tool_writers.PLAIN_CHANNEL, tool_writers.ROLE):
        text = tool_writers.harmony("get-time", {}, header)
        assert opened.allows(text.partition(" to=functions.")[2])
    whole = Checked(formats.HARMONY, parallel=False)
    assert whole.allows("<|start|>assistant" + harmony(TIME))


def test_an_empty_string_between_tags():
    call = ("", "find", {"place": HERE, "query": ""})
    written = tool_writers.qwen(call)
    checked = Checked(formats.QWEN, parallel=False)
    for text in (written, written.replace("=query>\n\n", "=query>\n")):
        assert checked.allows(text)
        assert parse(formats.QWEN, [text], TOOLS).calls == [call]


@every_format
def test_other_calls_are_not_allowed(format):
    checked, write = Checked(format, parallel=True), WRITERS[format]
    for name, arguments in (
        ("unknown", {}),
        ("find", {}),
        ("find", FIND | {"days": "x"}),
        ("find", FIND | {"days": 100}),
        ("find", FIND | {"unit": "K"}),
        ("find", FIND | {"other": 1}),
        ("find", FIND | {"place": {"zip": 7}}),
        ("get-time", {"a": 1}),
    ):
        order = sorted if format is formats.GEMMA_4 else list
        arguments = {key: arguments[key] for key in order(arguments)}
        assert not checked.allows(write(("", name, arguments)))
    assert not checked.allows("words") and not checked.allows("")


def walk(checked, rng, closing, longest=4000):
    """A random text of a grammar, which prefers to close what is open."""
    matcher, ids = checked.matcher(), []
    (less,) = checked.inner.encode("<").ids  # which may begin the text of a token
    while len(ids) < longest:
        legal = [i for i, bias in enumerate(matcher.compute_logit_bias()) if bias]
        if legal == [EOS] or EOS in legal and rng.random() < 0.5:
            return checked.inner.decode(ids, skip_special_tokens=False)
        text = checked.inner.decode(ids[-40:], skip_special_tokens=False)
        begun = [end for end in closing if "\n" in end and overlap(text, end)]
        ends = [end[overlap(text, end) :] for end in begun] or closing
        ends = [checked.inner.encode(end).ids[0] for end in ends]
        wanted = [i for i in ends if i in legal]
        others = [i for i in legal if i not in (EOS, less)] or legal
        likely = 0.98 if begun else 0.6
        ids.append(rng.choice(wanted if wanted and rng.random() < likely else others))
        assert matcher.try_consume_tokens(ids[-1:]) == 1
    raise AssertionError("the text does not end")


@pytest.mark.slow
@every_format
def test_whatever_a_grammar_allows_is_a_call_that_fits(format):
    rng = random.Random(1)
    checked = Checked(format, parallel=True)
    closing = ['"', "}", "]", "\n</parameter>\n", *format.tokens]
    closing = [end for end in closing if end not in format.opening]
    found = []
    for _ in range(25):
        text = walk(checked, rng, closing)
        if format is formats.HARMONY:
            text = text.removeprefix("<|start|>assistant")
        result = parse(format, [text], TOOLS)
        assert result.calls and not result.broken and not result.text.strip(), text
        for _, name, arguments in result.calls:
            jsonschema.validate(arguments, SCHEMAS[name])
        found += [name for _, name, _ in result.calls]
    assert {*found} == {*SCHEMAS}


def test_there_is_no_grammar_for_other_formats_or_without_tools():
    assert formats.GLM.grammar(TOOLS, parallel=True) is None
    assert formats.HERMES.grammar([], parallel=True) is None


def test_unusual_names_and_schemas():
    tools = [
        {"type": "function", "function": {"name": 'a"b\\', "parameters": None}},
        {"name": "c", "parameters": {"properties": {"k": True, "x": {"type": []}}}},
        {"name": "d", "parameters": {"properties": {"k": {"const": [1]}}}},
        {"name": "e", "parameters": {"properties": {"k": {"allOf": [{}, {}]}}}},
    ]
    for format in WRITERS:
        Checked(format, tools=tools, parallel=True).matcher()


def test_a_tool_without_parameters():
    tools = [{"type": "function", "function": {"name": "get-time"}}]
    for format, write in WRITERS.items():
        checked = Checked(format, tools=tools, parallel=True)
        assert checked.allows(write(TIME))
        assert not checked.allows(write(("", "get-time", {"a": 1})))
