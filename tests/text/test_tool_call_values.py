"""Values of tool calls: their types come from the schema, their digits stay."""

import json

import pytest

from dflash_mlx.text.tool_calls.cursor import Cursor, finish
from dflash_mlx.text.tool_calls.events import BrokenCall
from dflash_mlx.text.tool_calls.schema import (
    TYPES,
    Kind,
    Tool,
    convert,
    kind_of,
    read_tools,
    resolve,
)
from dflash_mlx.text.tool_calls.values import (
    FUNCTION_GEMMA,
    GEMMA,
    JSON,
    PYTHON,
    ValueReader,
    integer_text,
    number_text,
    to_json,
)

ROOT = {
    "$defs": {
        "Place": {"type": "object", "properties": {"city": {"type": "string"}}},
        "Unit": {"enum": ["C", "F", "1"]},
        "Text": {"$ref": "#/$defs/Word"},
        "Word": {"type": "string"},
        "Loop": {"$ref": "#/$defs/Loop"},
        "a/b": {"type": "integer"},
    },
    "definitions": {"list": [{"type": "boolean"}]},
}
STRING, INTEGER, NULL = {"type": "string"}, {"type": "integer"}, {"type": "null"}
NUMBER, BOOLEAN = {"type": "number"}, {"type": "boolean"}
OBJECT, ARRAY = {"type": "object"}, {"type": "array"}


@pytest.mark.parametrize(
    "schema, text, value",
    [
        (STRING, "null", "null"),
        (STRING, "5", "5"),
        (STRING, " a ", " a "),
        (STRING, '{"a": 1}', '{"a": 1}'),
        ({"type": "str"}, "5", "5"),
        ({"enum": ["1", "x"]}, "1", "1"),
        ({"const": "1"}, "1", "1"),
        (INTEGER, "9007199254740993", 9007199254740993),
        (INTEGER, "-5", -5),
        (INTEGER, " 5\n", 5),
        (INTEGER, "5.0", 5),
        (INTEGER, "1e3", 1000),
        (INTEGER, "007", 7),
        ({"enum": [1, 2]}, "2", 2),
        ({"const": 7}, "7", 7),
        (NUMBER, "0.10", 0.1),
        (NUMBER, "5", 5),
        (NUMBER, ".5", 0.5),
        (NUMBER, "-1.", -1),
        (BOOLEAN, "true", True),
        (BOOLEAN, "False", False),
        (NULL, "None", None),
        (OBJECT, '{"a": [1, "x\ny"]}', {"a": [1, "x\ny"]}),
        (OBJECT, "{'a': True, 'b': None,}", {"a": True, "b": None}),
        (ARRAY, "\n[1, 2]\n", [1, 2]),
        ({"items": STRING}, '["a"]', ["a"]),
        ({"properties": {}}, "{}", {}),
        # unions
        ({"type": ["string", "null"]}, "null", None),
        ({"type": ["string", "null"]}, "None", "None"),
        ({"type": ["string", "integer"]}, "5", 5),
        ({"type": ["string", "integer"]}, "007", "007"),
        ({"type": ["string", "integer"]}, "5.5", "5.5"),
        ({"type": ["string", "boolean"]}, "True", "True"),
        ({"anyOf": [STRING, NULL]}, "5", "5"),
        ({"anyOf": [INTEGER, NULL]}, "null", None),
        ({"oneOf": [ARRAY, STRING]}, "[1]", [1]),
        ({"oneOf": [ARRAY, STRING]}, "[1", "[1"),
        ({"anyOf": [{"enum": ["5"]}, INTEGER]}, "5", "5"),
        ({"type": "integer", "nullable": True}, "null", None),
        ({"allOf": [{"description": "x"}, INTEGER]}, "5", 5),
        ({"allOf": [{"type": ["integer", "string"]}, STRING]}, "5", "5"),
        # references
        ({"$ref": "#/$defs/Place"}, '{"city": "x"}', {"city": "x"}),
        ({"$ref": "#/$defs/Unit"}, "1", "1"),
        ({"$ref": "#/$defs/Text"}, "5", "5"),
        ({"anyOf": [{"$ref": "#/$defs/Text"}, NULL]}, "007", "007"),
        ({"$ref": "#/$defs/a~1b"}, "5", 5),
        ({"$ref": "#/definitions/list/0"}, "true", True),
        ({"anyOf": [{"$ref": "#/$defs/Place"}, NULL]}, "null", None),
        ({"$ref": "#/$defs/Loop"}, "5", 5),
        ({"$ref": "#/nowhere"}, "x", "x"),
        ({"$ref": "https://example.com"}, "5", 5),
        # no type
        ({}, "5", 5),
        (True, "5.0", 5.0),
        (None, "null", None),
        ({}, "007", "007"),
        ({}, "True", "True"),
        ({}, '"quoted"', '"quoted"'),
        ({}, "[1, {}]", [1, {}]),
        ({}, "{not JSON}", "{not JSON}"),
        ({"type": "unknown"}, "5", 5),
        ({"type": 3}, "x", "x"),
    ],
)
def test_the_schema_decides(schema, text, value):
    warnings = []
    found = json.loads(convert(text, kind_of(schema, ROOT), warnings.append))
    assert found == value and type(found) is type(value)
    assert warnings == []


@pytest.mark.parametrize(
    "schema, text",
    [
        (INTEGER, "2026-01-15"),
        (INTEGER, "5.5"),
        (INTEGER, ""),
        (INTEGER, "1e999999999"),
        (NUMBER, "NaN"),
        (NUMBER, "Infinity"),
        (NUMBER, "one"),
        (BOOLEAN, "yes"),
        (NULL, "nothing"),
        (OBJECT, "[1]"),
        (OBJECT, "{"),
        (ARRAY, "1, 2"),
        ({"type": ["integer", "null"]}, "x"),
    ],
)
def test_what_does_not_fit_is_a_string_with_a_warning(schema, text):
    warnings = []
    assert json.loads(convert(text, kind_of(schema, {}), warnings.append)) == text
    (warning,) = warnings
    assert warning.startswith(f"the value {text!r} is not of type ")


def test_digits_are_kept():
    for text in ("0.10", "1E5", "123456789012345678901234567890", "-0"):
        assert number_text(text) == text
        assert to_json(f"[{text}]") == f"[{text}]"
    assert integer_text("12345678901234567890.0") == "12345678901234567890"
    assert integer_text("9" * 5000) == "9" * 5000
    assert (number_text("1_000"), number_text("0xFF")) == ("1000", "255")
    assert number_text("00") == "0" and number_text("+5") == "5"
    for text in ("", "-", ".", "e5", "1.2.3", "five", "1 2", "٣"):
        assert number_text(text) is None


def test_parameters_of_a_tool():
    schema = {"properties": {"a": INTEGER}, "additionalProperties": STRING}
    tools = read_tools(
        [
            {"type": "function", "function": {"name": "f", "parameters": schema}},
            {"name": "g", "parameters": None},
            {"type": "function", "function": {"description": "no name"}},
            {"type": "web_search"},
        ]
    )
    assert list(tools) == ["f", "g"]
    assert tools["f"].kind("a").types == {"integer"}
    assert tools["f"].kind("b").is_string
    assert tools["g"].kind("a").types == TYPES
    assert Tool("h", {"properties": [1]}).kind("a").types == TYPES
    assert (tools["f"].names(), tools["g"].names()) == (["a"], [])


def read(text, dialect):
    """Read one value, and what was repaired."""
    cursor, parts, warnings = Cursor(text, ended=True), [], []
    reader = ValueReader(cursor, dialect, parts.append, warnings.append)
    finish(reader.value())
    assert cursor.at == len(text)
    return json.loads("".join(parts)), warnings


@pytest.mark.parametrize(
    "dialect, text, value",
    [
        (JSON, r'["a\"b", "\u00e9\/", "é"]', ['a"b', "é/", "é"]),
        (JSON, '["a\nb\t\r\x01"]', ["a\nb\t\r\x01"]),
        (JSON, r'["\d+", "C:\users"]', [r"\d+", r"C:\users"]),
        (JSON, r'["\u12", "it\'s"]', [r"\u12", "it's"]),
        (JSON, '["say "hi" to"]', ['say "hi" to']),
        (JSON, '["print("hi")"]', ['print("hi")']),
        (JSON, "['a \"b\" c']", ['a "b" c']),
        (JSON, "{'a': None, 'b': [True, False,], }", {"a": None, "b": [True, False]}),
        (JSON, '{"a": {"b": {}}, "c": []}', {"a": {"b": {}}, "c": []}),
        (PYTHON, r"['a\x41\u00e9\n', 'it\'s']", ["aAé\n", "it's"]),
        (PYTHON, r'["\U0001F600", "\q"]', ["😀", r"\q"]),
        (PYTHON, "['''two\nlines''', '']", ["two\nlines", ""]),
        (PYTHON, "['it's', (1, 2), {'k': 1_000}]", ["it's", [1, 2], {"k": 1000}]),
        (PYTHON, '[{"k": true, "n": null}, Paris]', [{"k": True, "n": None}, "Paris"]),
        (GEMMA, '{a-b:<|"|>x "y", {z}\\n<|"|>}', {"a-b": 'x "y", {z}\\n'}),
        (
            GEMMA,
            '{<|"|>a<|"|>:1,b:{c:[true,null]}}',
            {"a": 1, "b": {"c": [True, None]}},
        ),
        (GEMMA, '{a:some words,b:"q\\"r"}', {"a": "some words", "b": 'q"r'}),
        (GEMMA, "{ a : 5 , b:-0.5}", {"a": 5, "b": -0.5}),
        (FUNCTION_GEMMA, "{a:<escape>x, y<escape>,b:2}", {"a": "x, y", "b": 2}),
    ],
)
def test_ways_to_write_a_value(dialect, text, value):
    assert read(text, dialect)[0] == value


@pytest.mark.parametrize(
    "dialect, text, reason",
    [
        (JSON, "[1 2]", "',' or ']' was expected, not '2'"),
        (JSON, "{1: 2}", "a key was expected, not '1'"),
        (JSON, '{"a" 2}', "the text ends"),
        (JSON, "[nul]", "a value was expected, not nul"),
        (JSON, "[,]", "a value was expected, not ','"),
        (JSON, "(1,)", "a value was expected, not '('"),
        (JSON, "[1", "the text ends"),
        (JSON, '["a', "the text ends"),
        (JSON, "[tru", "the text ends"),
        (PYTHON, r'["\UFFFFFFFF"]', "there is no character"),
        (GEMMA, "{:1}", "a key was expected"),
    ],
)
def test_what_is_no_value(dialect, text, reason):
    with pytest.raises(BrokenCall, match="^" + reason.replace("(", r"\(")[:20]):
        read(text, dialect)


def test_repairs_are_reported():
    assert read('["say "hi""]', JSON)[1] == ["a quote inside a string was escaped"] * 2
    assert read(r'["\d"]', JSON)[1] == ["a backslash that escapes nothing was kept"]
    assert read("[1,]", JSON)[1] == ["a comma before a closing bracket was removed"]
    assert read('["a\nb"]', JSON)[1] == []
    (warning,) = read("[a b]", PYTHON)[1]
    assert warning == "the text 'a b' without quotes was taken for a string"


def test_a_whole_text_as_json():
    assert to_json(' {"a": 1}\n') == '{"a": 1}'
    assert to_json("5") == "5"
    for text in ("{} x", "", "[", "x"):
        assert to_json(text) is None


def test_references_that_branch_or_loop_are_read_in_time():
    defs = {f"a{i}": {"anyOf": [{"$ref": f"#/$defs/a{i + 1}"}] * 50} for i in range(9)}
    root = {"$ref": "#/$defs/a0", "$defs": {**defs, "a9": {"type": "string"}}}
    assert kind_of(root, root).types == {"string"}
    loop = {"anyOf": [{"$ref": "#"}] * 50}
    assert kind_of(loop, loop) == Kind()
    assert resolve("#/anyOf/" + "9" * 5000, loop) is None
    assert resolve("#/anyOf/50", loop) is None
    assert resolve("#/anyOf/49", loop) == {"$ref": "#"}
