"""Refuses grammars that are too large, or take too long to compile.

llguidance bounds most of its work, but not all: some short schemas take minutes or
more, in a call that cannot be interrupted. So what may be one of these is compiled in a
process of its own first. Does not know what a grammar means.
"""

from __future__ import annotations

import re
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

from ..errors import GrammarError

MOST_CHARACTERS = 2**18
# Longer grammars are compiled in a process of their own first, which takes 0.1 s more.
SHORT = {"JSON schema": 2**14, "regular expression": 2**8, "grammar": 2**12}
# So are those with one of these: intersections of patterns, numbers with a large
# divisor, and repetitions multiply states.
RISKY = {
    "JSON schema": re.compile(r'"(allOf|multipleOf|pattern\w*|format)"'),
    "regular expression": re.compile(r"[{&~]"),
    "grammar": re.compile(r"[{&~]"),
}
SECONDS = 3.0
TRIAL = Path(__file__).with_name("trial.py")


def check_size(text: str, kind: str) -> None:
    """Raise GrammarError if a grammar's text is too long.

    Args:
        text: The grammar, as it was given.
        kind: What it is, a key of SHORT.
    """
    if len(text) > MOST_CHARACTERS:
        raise GrammarError(
            f"The {kind} has {len(text):,} characters, of {MOST_CHARACTERS:,} at most."
        )


def check_effort(text: str, kind: str, source: str) -> None:
    """Raise GrammarError if a grammar takes too long to compile.

    Args:
        text, kind: As in check_size.
        source: The same for llguidance.
    """
    risky = len(text) > SHORT[kind] or RISKY[kind].search(text)
    if risky and not compiles(source):
        raise GrammarError(
            f"The {kind} is too complex: it is not compiled within {SECONDS:.0f} "
            "seconds.",
            "Use fewer or simpler patterns, and smaller numbers in multipleOf.",
        )


@lru_cache(maxsize=256)
def compiles(source: str) -> bool:
    """Whether llguidance gets ready with a grammar in time, be it with an error."""
    command = [sys.executable, "-P", str(TRIAL)]
    try:
        run = subprocess.run(
            command, input=source.encode(), capture_output=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return False
    return run.returncode == 0
