"""`serve` as a program: what it prints, refuses, and how it ends."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import pytest

from tests.equipment.program import program


@contextmanager
def serving(*arguments: str):
    """A running server and its address."""
    command = [sys.executable, "-m", "dflash_mlx", "serve", "--port", "0", *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        first = process.stdout.readline()
        url = re.search(r"at (http://\S+)/v1", first)
        assert url, first + process.stderr.read()
        yield process, url[1]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def post(url: str, body: dict) -> dict:
    request = urllib.request.Request(
        url + "/v1/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_within_a_second(number):
    body = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 3}
    with serving("tiny", "--temp", "0.5") as (process, url):
        assert post(url, body)["usage"]["completion_tokens"] == 3
        begun = time.monotonic()
        process.send_signal(number)
        process.wait(10)
        # The interpreter's own end takes a part of the second.
        assert time.monotonic() - begun < 2.0
        assert process.returncode in (0, 130, -number)
        log = process.stderr.read()
    assert re.search(r"req_\w+ /v1/chat/completions tiny: \d+ prompt tokens", log)
    assert "Traceback" not in log


@pytest.mark.slow
def test_what_is_printed_works_when_pasted():
    with serving() as (process, url):
        lines = [process.stdout.readline() for _ in range(7)]
        text = "".join(lines)
        curl = text[text.index("curl") : text.index("openai")]
        environment = dict(os.environ, no_proxy="127.0.0.1")
        run = subprocess.run(
            ["bash", "-c", curl], capture_output=True, text=True, env=environment
        )
        assert json.loads(run.stdout)["choices"][0]["message"]["content"]
        assert f'openai.OpenAI(base_url="{url}/v1", api_key="none")' in text
        assert f"ANTHROPIC_BASE_URL={url}" in text and "claude" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "0.0.0.0"], "so it needs --api-key"),
        (["--port", "70000"], "--port must be 0 to 65535"),
        (["--max-queue", "0"], "--max-queue must be 1 or more"),
        (["--timeout", "-1"], "--timeout must be 0 or more"),
        (["--context", "0"], "--context must be 1 or more"),
        (["--alias", "x"], "--alias must be NAME=MODEL"),
        (["--alias", "x=no-such-model"], "is not a known alias"),
        (["--log-level", "loud"], "--log-level must be one of"),
        (["--api-key", ""], "--api-key must be at least one character"),
        (["--model", "no-such-model"], "is not a known alias"),
        (["tiny", "--model", "qwen3-8b"], "The model is given twice"),
    ],
)
def test_options_that_cannot_be_used(arguments, words):
    run = program("serve", *arguments)
    assert run.returncode == 2 and run.stdout == ""
    assert words in run.stderr


def test_both_names_of_the_command():
    assert "serve" in program("--help").stdout
    assert program("server", "--port", "-1").returncode == 2
