"""Compiles the grammar on stdin, in a process that limits.py can end.

The vocabulary is all bytes, since what takes long does not depend on the tokens.
"""

from __future__ import annotations

import resource
import sys
from contextlib import suppress

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

MOST_MEMORY = 2**32  # bytes of address space
END = 256  # the token that ends a text


class Bytes:
    """A tokenizer whose tokens are the bytes, as llguidance wants one."""

    eos_token_id = END
    bos_token_id = None
    special_token_ids = (END,)
    tokens = (*(bytes([i]) for i in range(END)), b"<end>")

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


def main() -> None:
    """Compile, and compute the first mask."""
    with suppress(ValueError, OSError):  # a system that has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    tokens = LLTokenizer(TokenizerWrapper(Bytes()))
    LLMatcher(tokens, sys.stdin.read(), log_level=0).compute_bitmask()


if __name__ == "__main__":
    main()
