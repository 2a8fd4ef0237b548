"""Progress on a terminal: what is drawn, and that it is erased."""

import hashlib
import io
import os
import shutil
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Timer

import pexpect
import pyte
import pytest
from rich.console import Console

from dflash_mlx.hub.find import TINY_FOLDER
from dflash_mlx.terminal.screen import progress
from tests.equipment.hub_server import Hub

PREFILL = """
import sys, time
from dflash_mlx.terminal.screen import progress
progress.PREFILL_DELAY = 0.2
seconds = float(sys.argv[1])
with progress.PrefillBar(progress.wanted()) as reading:
    for done in range(0, 1001, 250):
        reading(done, 1000)
        time.sleep(seconds)
print("answer")
"""
INTERRUPTED = """
import time
from dflash_mlx.terminal.screen import progress
progress.PREFILL_DELAY = 0.1
try:
    with progress.PrefillBar(True) as reading:
        reading(0, 1000)
        time.sleep(0.5)
        raise KeyboardInterrupt
except KeyboardInterrupt:
    print("stopped")
"""


def terminal(*arguments, env=None, stdout=None):
    """Run Python in a terminal; what it wrote, and the rows that stay on the screen."""
    command = [sys.executable, *arguments]
    if stdout:
        quoted = " ".join(f"'{word}'" for word in command)
        command = ["/bin/sh", "-c", f"{quoted} >{stdout}"]
    drawn = io.StringIO()
    child = pexpect.spawn(
        command[0],
        command[1:],
        env=dict(os.environ, TERM="xterm-256color", **(env or {})),
        dimensions=(30, 80),
        encoding="utf-8",
        timeout=60,
    )
    child.logfile_read = drawn
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0, drawn.getvalue()
    screen = pyte.Screen(80, 30)
    pyte.Stream(screen).feed(drawn.getvalue())
    lines = [line.rstrip() for line in screen.display]
    return drawn.getvalue(), [line for line in lines if line]


def test_a_long_prefill_has_a_bar_that_is_erased():
    drawn, screen = terminal("-c", PREFILL, "0.2")
    assert "Reading the prompt" in drawn and "tokens/s" in drawn
    assert "/1000" in drawn
    assert screen == ["answer"]


def test_a_short_prefill_has_no_bar():
    drawn, screen = terminal("-c", PREFILL, "0.01")
    assert "Reading" not in drawn and screen == ["answer"]


def test_an_interrupted_bar_is_erased():
    drawn, screen = terminal("-c", INTERRUPTED)
    assert "Reading the prompt" in drawn and screen == ["stopped"]


@pytest.mark.slow
def test_the_spinner_of_a_load_is_erased():
    arguments = ("generate", "Hello!", "--model", "tiny")
    drawn, screen = terminal("-m", "dflash_mlx", *arguments)
    assert "Loading tiny" in drawn
    assert screen[0] == "Hello! How can I help you today?"
    assert screen[1].startswith("Prompt: ") and "Loading" not in "".join(screen)


@pytest.mark.full("programs")
@pytest.mark.parametrize("option", ["--verbose=F", "--json"])
def test_no_spinner_for_programs(option, tmp_path):
    out = tmp_path / "out"
    drawn, _ = terminal("-m", "dflash_mlx", "generate", "Hi", option, stdout=out)
    # A notice that costs are measured is allowed; it is not progress.
    assert "Loading" not in drawn and "\x1b" not in drawn and out.read_text()


def test_json_on_a_terminal_may_show_progress(monkeypatch):
    for stderr, stdout, verbose, as_json, expected in (
        (True, True, True, True, True),
        (True, False, True, True, False),
        (True, False, True, False, True),
        (True, True, False, False, False),
        (False, True, True, False, False),
    ):
        monkeypatch.setattr(sys.stderr, "isatty", lambda on=stderr: on)
        monkeypatch.setattr(sys.stdout, "isatty", lambda on=stdout: on)
        assert progress.wanted(verbose, as_json) is expected


@pytest.mark.slow
def test_a_download_shows_bytes_and_files_and_erases_them(tmp_path):
    drafters = shutil.ignore_patterns("drafter", "dflash2")
    shutil.copytree(TINY_FOLDER, tmp_path / "tiny", ignore=drafters)
    arguments = ["-m", "dflash_mlx", "generate", "Hello!", "--model", "org/tiny"]
    with Hub({"org/tiny": tmp_path / "tiny"}) as hub:
        env = {
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_XET": "1",
        }
        drawn, screen = terminal(*arguments, env=env)
    assert "Fetching" in drawn and "files" in drawn and "4.07MB" in drawn
    assert "Downloading org/tiny (" in " ".join(screen)
    answer = screen.index("Hello! How can I help you today?")
    before = " ".join(screen[:answer])
    assert before.startswith("Downloading") and before.endswith("GiB available.")
    assert "|" not in before and "complete" not in before


def test_the_bar_does_not_wait_for_its_timer():
    reading = progress.PrefillBar(False)
    start = time.perf_counter()
    reading(0, 10)
    reading.close()
    assert time.perf_counter() - start < 0.5 and not reading.started


def test_ctrl_c_is_noticed_while_python_handles_no_signal():
    pressed, before = [], signal.signal(signal.SIGINT, lambda *_: None)
    try:
        with progress.ctrl_c_watched(lambda: pressed.append(time.perf_counter())):
            Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
            hashlib.pbkdf2_hmac("sha256", b"", b"", 600_000)
            ended = time.perf_counter()
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(pressed) == 1 and pressed[0] < ended
    assert signal.set_wakeup_fd(-1) == -1  # as before


def test_in_another_thread_nothing_is_watched():
    with ThreadPoolExecutor(1) as pool:
        watched = progress.ctrl_c_watched(pytest.fail)
        pool.submit(watched.__enter__).result()
        pool.submit(watched.__exit__, None, None, None).result()


def test_a_stop_changes_the_bar():
    bar = progress.PrefillBar(True)
    bar.bar.live.console = Console(file=io.StringIO(), force_terminal=True)
    bar(0, 9)
    bar._announce_stop()
    assert bar.bar.tasks[0].description == "Stopping..." and bar.started
    bar.close()
    bar._announce_stop()
