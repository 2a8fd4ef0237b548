"""The `benchmark` command: its JSON line, its table and its errors."""

import json

import pytest

from tests.equipment.program import program


@pytest.mark.slow
def test_the_command_prints_one_json_line(tmp_path):
    log = tmp_path / "log.jsonl"
    run = program(
        *("benchmark", "--classes", "exercises,random", "--samples", "1"),
        *("--repeats", "2", "--max-tokens", "20", "--warmup", "2"),
        *("--block-sizes", "auto,4", "--json", "--jsonl", str(log)),
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("\n") == 1 and log.read_text() == run.stdout
    report = json.loads(run.stdout)
    assert report["machine"]["mlx"] and report["machine"]["processor"]
    assert report["settings"]["settings"]["repeats"] == 2
    assert report["settings"]["block_sizes"] == [None, 4]
    kinds = [(row["kind"], row["contender"]) for row in report["rows"]]
    names = ("plain", "auto", "4")
    assert kinds == [(k, c) for k in ("exercises", "random") for c in names]
    assert len(report["prompts"]) == 6
    assert all(len(each["tokens_per_second"]) == 2 for each in report["prompts"])
    assert report["prompts"][1]["stats"][0]["rounds"] > 0


@pytest.mark.slow
def test_the_command_prints_a_table():
    run = program(
        *("benchmark", "--classes", "exercises", "--samples", "1", "--repeats", "1"),
        *("--max-tokens", "20", "--warmup", "0", "--block-sizes", "4", "--temps"),
        *("0,0.5", "--mlx-lm"),
    )
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert lines[0].startswith("tiny on ")
    heads = next(line for line in lines if "tokens/s" in line)
    assert "vs plain" in heads and " T " in heads and "context" not in heads
    cells = [line.split() for line in lines if line.startswith(" exercises")]
    assert [cell[1:3] for cell in cells] == [
        ["0", "plain"],
        ["0", "dflash"],
        ["0", "mlx-lm"],
        ["0.5", "plain"],
        ["0.5", "dflash"],
        ["0.5", "mlx-lm"],
    ]
    assert any("--block-sizes 4 is exercises: " in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--classes", "cat"], 2, "There is no class 'cat'"),
        (["--suite", "gsm"], 2, "There is no suite 'gsm'"),
        (["--suite", "gsm8k", "--classes", "chat"], 2, "--suite builtin"),
        (["--block-sizes", "auto,x"], 2, "--block-sizes must be numbers"),
        (["--block-sizes", "1"], 2, "--block-sizes must be 2 or more"),
        (["--temps", "0,warm"], 2, "--temps must be numbers"),
        (["--repeats", "0"], 2, "--repeats must be"),
        (["--no-local"], 2, "--no-local needs --base-url"),
        (["--base-url", "http://127.0.0.1:9"], 1, "cannot be reached"),
        (["--shape", "race", "--model", "qwen3-8b"], 2, "exclude each other"),
        (["--draft", "untrained", "--shape", "race", "--model", "x"], 2, "exclude"),
        (["--shape", "race", "--draft", "tiny-dflash2"], 2, "exclude each other"),
        (["--base-url", "http://x", "--no-local", "--mlx-lm"], 2, "exclude"),
        (["--plot", "none/such.png"], 2, "no folder none"),
        (["--plot", "speed.txt"], 2, "must end in .png"),
        (["--jsonl", "none/such.jsonl"], 2, "no folder none"),
        (["--contexts", "8192"], 2, "do not fit"),
    ],
)
def test_a_mistake_gives_one_sentence_and_an_exit_code(
    arguments, code, words, tmp_path
):
    if "--plot" in arguments:
        pytest.importorskip("matplotlib")
    run = program("benchmark", *arguments, cwd=tmp_path)
    assert run.returncode == code, run.stderr
    assert words in " ".join(run.stderr.split()) and run.stdout == ""
    assert "Traceback" not in run.stderr and not list(tmp_path.iterdir())
