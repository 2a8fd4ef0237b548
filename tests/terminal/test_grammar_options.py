"""--json-schema, --grammar and --regex on the command line."""

import json

import jsonschema
import pytest

from tests.equipment.program import process, program

QUESTION = "What is 48 + 76?"
SCHEMA = {
    "type": "object",
    "properties": {"sum": {"type": "integer", "minimum": 0, "maximum": 999}},
    "required": ["sum"],
    "additionalProperties": False,
}


@pytest.fixture
def files(tmp_path):
    """A schema, a grammar and others that are none."""
    (tmp_path / "sum.json").write_text(json.dumps(SCHEMA))
    (tmp_path / "sum.lark").write_text('start: "The sum is " /[0-9]{3}/')
    (tmp_path / "bad.json").write_text('{"not": {}}')
    (tmp_path / "bad.lark").write_text("start: foo")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe{}")
    return tmp_path


@pytest.mark.slow
def test_a_schema_from_a_shell(files):
    arguments = ["generate", QUESTION, "--json-schema", str(files / "sum.json")]
    answers = set()
    for run, options in (
        (process, []),
        (program, ["--block-size", "8"]),
        (program, ["--plain"]),
    ):
        ended = run(*arguments, *options)
        assert ended.returncode == 0, ended.stderr
        jsonschema.validate(json.loads(ended.stdout), SCHEMA)
        answers.add(ended.stdout)
    assert len(answers) == 1


@pytest.mark.slow
def test_a_lark_grammar_and_a_regular_expression(files):
    ended = program("generate", QUESTION, "--grammar", "sum.lark", cwd=files)
    assert ended.stdout.startswith("The sum is ") and len(ended.stdout) == 15
    ended = program("generate", QUESTION, "--regex", "[0-9]{4}", "--json")
    report = json.loads(ended.stdout)
    assert report["text"].isdigit() and len(report["text"]) == 4
    assert report["finish_reason"] == "stop" and report["generation_tokens"] == 5
    ended = program("generate", QUESTION, "--regex", "[0-9]{4}", "--json", "-m", "3")
    assert json.loads(ended.stdout)["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--json-schema", "bad.json"], 2, "not is not supported in a JSON schema."),
        (["--grammar", "bad.lark"], 2, 'unknown name: "foo"'),
        (["--regex", "(a"], 2, "unclosed group"),
        (["--json-schema", "none.json"], 1, "none.json of --json-schema cannot be"),
        (["--json-schema", "bytes.json"], 1, "cannot be read: it is no text"),
        (
            ["--json-schema", "sum.json", "--regex", "a"],
            2,
            "--json-schema and --regex exclude each other",
        ),
        (
            ["--regex", "a", "--prefill-response", "b"],
            2,
            "--prefill-response and --regex exclude each other",
        ),
    ],
)
def test_what_cannot_be_used(files, options, code, words):
    ended = program("generate", QUESTION, *options, cwd=files)
    assert ended.returncode == code and ended.stdout == ""
    assert words in " ".join(ended.stderr.split())
