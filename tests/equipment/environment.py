"""An environment for the tests that does not depend on the caller's.

Processes that tests start inherit it.
"""

from __future__ import annotations

import os
import re
import tempfile

# Variables that change what huggingface_hub, rich, typer and Python print or read.
REMOVED = re.compile(
    r"HF_.*|HUGGING.*|TRANSFORMERS_.*|XDG_CACHE_HOME|LANG|LANGUAGE|LC_.*"
    r"|NO_COLOR|FORCE_COLOR|CLICOLOR.*|COLORTERM|PY_COLORS|GITHUB_ACTIONS"
    r"|COLUMNS|LINES|TERMINAL_WIDTH|TTY_.*|PYTHONIOENCODING"
)
HUB = tempfile.TemporaryDirectory(prefix="dflash-mlx-tests-")
SET = {
    # An empty cache, and a Hub that refuses connections at once.
    "HF_HOME": HUB.name,
    "HF_ENDPOINT": "http://127.0.0.1:9",
    "NO_PROXY": "127.0.0.1,localhost",
    "no_proxy": "127.0.0.1,localhost",
    "PYTHONUTF8": "1",
    "TERM": "xterm-256color",
}


def isolate() -> None:
    """Change this process's environment. Call it before importing huggingface_hub."""
    for name in filter(REMOVED.fullmatch, list(os.environ)):
        del os.environ[name]
    os.environ.update(SET)
