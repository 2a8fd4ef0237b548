"""Readers of a chat's messages: a pipe, a simple terminal, no stdin at all."""

import os
import signal
import sys
import threading
from io import BytesIO

import pytest

from dflash_mlx.errors import PromptError
from dflash_mlx.terminal.chat.editor import LineReader, open_reader


def test_ctrl_c_that_interrupts_no_read_is_noticed():
    """For example one that comes just before the read, or in another thread."""
    end, other = os.pipe()
    late = threading.Timer(5, os.write, (other, b"not noticed\n"))
    late.start()

    def press():
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    with os.fdopen(end, "rb") as source, pytest.raises(KeyboardInterrupt):
        threading.Timer(0.3, press).start()
        LineReader(source, terminal=True).read()
    assert late.is_alive()
    late.cancel()
    os.close(other)


def test_lines_of_a_pipe():
    lines = LineReader(BytesIO("a\r\nб\\\nÿ".encode() + b"\xff\nlast\nmore"))
    assert lines.read() == "a" and lines.read() == "б\\"
    with pytest.raises(PromptError, match="UTF-8"):
        lines.read()
    assert lines.paste() == "last\nmore"
    assert lines.read() is None and lines.paste() is None


def test_no_stdin_at_all(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    assert open_reader(pytest.fail, None).read() is None


def test_an_invalid_byte_refuses_the_whole_paste():
    lines = LineReader(BytesIO(b"one\n\xff\ntwo\nq\n"))
    with pytest.raises(PromptError, match="UTF-8"):
        lines.paste()
    assert lines.read() is None
