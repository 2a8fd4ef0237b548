"""The program: exit codes, stdout for the answer and stderr for the rest."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from dflash_mlx.engine import generate as plain_generate
from dflash_mlx.loading import load
from tests.equipment.program import process, program

QUESTION = "Write the 7 times table up to 5."


@pytest.fixture(scope="module")
def text():
    pair, tokenizer = load("tiny")
    messages = [{"role": "user", "content": QUESTION}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    return plain_generate(pair, tokenizer, ids, max_tokens=1024)


@pytest.mark.parametrize("program", (program, process))
def test_generate(text, program):
    run = program("generate", QUESTION, "--block-size", "8")
    assert run.returncode == 0 and run.stdout == text + "\n"
    toy, *lines = run.stderr.splitlines()
    assert "tiny answers, a built-in toy" in toy and "--model qwen3-8b" in toy
    assert [line.split(":")[0] for line in lines] == [
        "Prompt",
        "Generation",
        "Peak memory",
        "DFlash",
    ]
    assert "tokens per round" in lines[3]


@pytest.mark.slow
def test_generate_reads_stdin_and_prompt_option(text):
    assert program("generate", "-", stdin=QUESTION).stdout == text + "\n"
    assert program("generate", stdin=QUESTION).stdout == text + "\n"
    run = program("generate", "--prompt", QUESTION, "--verbose", "F")
    assert run.stdout == text + "\n" and run.stderr == ""


@pytest.mark.slow
def test_generate_reports_plain_decoding(text):
    run = program("generate", QUESTION, "--plain")
    assert run.stdout == text + "\n"
    assert "DFlash: off (drafting is off)" in run.stderr


def test_json(text):
    options = ["--json", "--block-size", "8", "--stop", "7 x 3"]
    run = program("generate", QUESTION, *options)
    report = json.loads(run.stdout)
    assert report["text"] == text[: text.index("7 x 3")]
    assert report["finish_reason"] == "stop" and report["engine"] == "dflash"
    assert report["tokens_per_round"] > 1 and run.stderr == ""


def test_prefill_response_and_system_prompt(text):
    first = text.splitlines()[0]
    run = program("generate", QUESTION, "--prefill-response", first)
    assert run.stdout.strip() == text[len(first) :].strip()
    run = program("generate", QUESTION, "--system-prompt", "Be brief.", "-m", "4")
    assert "Prompt: 4" in run.stderr or "Prompt: 3" in run.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["generate", ""], 2, "The prompt is empty."),
        (["generate", "x", "--prompt", "y"], 2, "given twice"),
        (["generate", "x", "--model", "qwen3-8"], 2, "Did you mean qwen3-8b"),
        (["generate", "x", "--model", "./none"], 2, "no folder"),
        (["generate", "x", "--temp", "-1"], 2, "temp must be 0 or more"),
        (["generate", "x", "--max-tokens", "0"], 2, "--max-tokens must be"),
        (["generate", "x", "--block-size", "0"], 2, "--block-size must be"),
        (["generate", "x", "--plain", "--require-dflash"], 2, "exclude each other"),
        (["generate", "x", "--draft", "none", "--require-dflash"], 1, "required"),
        (["generate", "x", "--plain", "--block-size", "4"], 2, "exclude each other"),
        (["generate", "x", "--require-dflash", "--block-size", "1"], 2, "exclude"),
        (
            ["generate", "x", "--draft", "nanbeige4.2-3b"],
            2,
            "cannot run any drafter of nanbeige4.2-3b",
        ),
        (["generate", "x", "--logit-bias", '{"9999": 1}'], 2, "vocabulary has 512"),
        (["generate", "x", "--stop", ""], 2, "at least one character"),
        (["generate", "x", "--chat-template-config", "{"], 2, "JSON object"),
        (["generate", "x", "--logit-bias", '{"a": 1}'], 2, "token ids"),
        (["generate", "x", "--kv-bits", "5"], 2, "kv_bits must be"),
        (["generate", "x", "--extra-eos-token", "nonesuch"], 2, "--extra-eos-token"),
        (["generate", "x", "--verbose", "maybe"], 2, "must be T or F"),
        (["generate", "x", "--blok-size", "4"], 2, "No such option"),
        (["generate", "one " * 9000], 2, "context ends at 8192"),
        (["train", "--data", "none.jsonl", "--out", "o"], 1, "There is no file"),
        (["train", "--data", "x", "--out", "o", "--gamma", "0"], 2, "gamma must be"),
        (["train", "--data", "x", "--out", "o", "--taps", "a"], 2, "--taps must be"),
        (["nonesuch"], 2, "No such command"),
        (["generate", "-5 + 3"], 2, "Write -- before a prompt that begins with a dash"),
        (["generate", "x", "--model", "a.gguf"], 2, "a.gguf is a GGUF file"),
        (["generate", "x", "--model", "~none/x"], 2, "no folder ~none/x"),
    ],
)
def test_mistakes_get_one_sentence_and_a_code(arguments, code, words, tmp_path):
    run = program(*arguments, cwd=tmp_path)
    assert run.returncode == code, run.stderr
    assert words in " ".join(run.stderr.split()) and run.stdout == ""
    assert "Traceback" not in run.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_mistake_in_a_process_of_its_own(tmp_path):
    run = process("generate", "x", "--max-tokens", "0", cwd=tmp_path)
    assert run.returncode == 2 and run.stdout == ""
    assert "--max-tokens must be" in run.stderr and "Traceback" not in run.stderr


def test_a_fallback_is_reported(tmp_path):
    run = program("generate", "Hi", "--draft", "none", "-m", "3")
    assert "Using plain decoding: drafting is off." in run.stderr


@pytest.mark.slow
def test_ctrl_c_keeps_the_text_and_exits_with_130():
    command = [sys.executable, "-m", "dflash_mlx", "generate", "Count from 0 to 400."]
    run = subprocess.Popen(
        [*command, "-m", "-1", "--plain", "--logit-bias", '{"2": -100}'],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Background jobs of a shell ignore SIGINT, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    first = run.stdout.read(3)  # wait for the answer to begin
    time.sleep(0.3)
    run.send_signal(signal.SIGINT)
    rest, errors = run.communicate(timeout=30)
    assert run.returncode == 130
    assert len(first + rest) > 3 and (first + rest).endswith("\n")
    assert "Generation: " in errors and "Traceback" not in errors


def test_chat_keeps_history_in_its_caches():
    script = "Hello!\n\nh\nCount from 1 to 8.\nr\nHello!\nq\nnever read\n"
    run = program("chat", stdin=script)
    assert run.returncode == 0 and "Traceback" not in run.stderr
    assert run.stdout.count("Hello! How can I help you today?") == 2
    assert "The conversation is cleared." in run.stderr
    assert run.stderr.count(" tok/s") == 3
    ended = program("chat", stdin="Hello!\n")
    assert ended.returncode == 0


def test_models_lists_what_runs():
    run = program("models")
    assert run.returncode == 0
    assert "qwen3-8b " in run.stdout and "GiB" in run.stdout
    run = program("models", "qwen3-8b")
    assert "z-lab/Qwen3-8B-DFlash-b16" in run.stdout
    assert "yes, by default" in run.stdout
    assert "not yet" in program("models", "nanbeige4.2-3b").stdout


def test_a_model_may_be_an_argument_of_chat():
    for arguments in (("tiny",), ("--model", "tiny"), ("tiny", "--model", "tiny")):
        run = program("chat", *arguments, stdin="Hello!\n")
        assert run.returncode == 0 and "Hello!" in run.stdout
        assert "No --model" not in run.stderr
    assert program("run", "tiny", stdin="Hello!\n").stdout == run.stdout
    assert "No --model given: tiny" in program("chat", stdin="Hello!\n").stderr
    assert program("chat", "--verbose", "F", stdin="Hello!\n").stderr == ""
    twice = program("chat", "tiny", "--model", "qwen3-8b")
    assert twice.returncode == 2 and "given twice" in twice.stderr


def test_plain_wins_over_a_drafter():
    run = program("generate", QUESTION, "--plain", "--draft", "tiny", "-m", "3")
    assert run.returncode == 0 and "DFlash: off (drafting is off)" in run.stderr


@pytest.mark.slow
def test_verify():
    run = program("verify", "--max-tokens", "60")
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.endswith(
        "4 of 4 answers are identical to plain decoding. The logits are equal bit "
        "for bit.\n"
    )
    report = json.loads(program("verify", QUESTION, "--json", "-m", "20").stdout)
    assert report["identical"] and report["results"][0]["verdict"] == "identical"


def test_version():
    assert program("--version").stdout.startswith("dflash-mlx 0.")


@pytest.mark.slow
def test_quantizing_prints_nothing_on_stdout():
    run = program("generate", QUESTION, "--quantize", "8", "--json", "-m", "3")
    assert json.loads(run.stdout)["generation_tokens"] == 3


@pytest.mark.slow
def test_a_prompt_that_is_not_utf8(tmp_path):
    command = [sys.executable, "-m", "dflash_mlx", "generate", "-"]
    env = dict(os.environ, PYTHONIOENCODING="utf-8:surrogateescape")
    run = subprocess.run(command, input=b"\xff\xfe hi", capture_output=True, env=env)
    assert run.returncode == 2 and b"not valid UTF-8" in run.stderr


def test_training_checks_what_can_fail_first(tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text('{"prompt": "Hello!"}\n' * 4)
    (tmp_path / "file").write_text("x")
    common = ["train", "--data", str(data), "--held-out", "2"]
    for more, words in (
        (["--out", str(tmp_path / "o"), "--mask-token-id", "512"], "mask_token_id"),
        (["--out", str(tmp_path / "o"), "--taps", "1,6"], "layers [6]"),
        (["--out", str(tmp_path / "o"), "--held-out", "4"], "nothing to train on"),
        (["--out", str(tmp_path / "file")], "cannot be a folder"),
        (["--out", str(tmp_path / "o"), "--max-tokens", "-1"], "max_tokens"),
    ):
        run = program(*common, *more)
        assert run.returncode in (1, 2) and words in run.stderr, run.stderr
        assert "Traceback" not in run.stderr
    data.write_bytes(b'{"prompt": "a"}\n\xff\n')
    run = program(*common, "--out", str(tmp_path / "o"))
    assert "line 2 is not valid UTF-8" in run.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "file"),
    [
        (["generate", "Hi", "-m", "2", "--prompt-cache-file=~/x"], "x"),
        (["benchmark", "--jsonl=~/none/x"], None),
        (["generate", "Hi", "-m", "2", "--adapter-path=~/a"], None),
        (["train", "--data=~/d", "--out=~/x"], None),
    ],
)
def test_a_tilde_is_the_home_folder(arguments, file, tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    run = program(*arguments, cwd=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    if file is None:
        assert str(home) in run.stderr.replace("\n", "")
    else:
        assert run.returncode == 0 and (home / file).exists(), run.stderr


@pytest.mark.full("programs")
def test_a_user_without_a_home_gets_answers(tmp_path):
    """No HOME, and no entry in the list of users."""
    code = (
        "import os, pwd, sys\n"
        "def getpwuid(number): raise KeyError(number)\n"
        "pwd.getpwuid = getpwuid; os.environ.pop('HOME', None)\n"
        "from dflash_mlx.cli import run_app\n"
        "sys.argv = ['dflash-mlx', *sys.argv[1:]]; run_app()"
    )
    for arguments in (["generate", "Hi", "-m", "3"], ["chat", "-m", "3"]):
        run = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            input="Hi\n",
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        assert run.returncode == 0 and run.stdout, run.stderr
        assert run.stderr.count("no home folder") == 1 and "Traceback" not in run.stderr
        assert not list(tmp_path.iterdir())
