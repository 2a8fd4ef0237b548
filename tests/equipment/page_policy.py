"""The Content-Security-Policy of the chat page, which names the digests of its parts.

    python -m tests.equipment.page_policy

writes the policy into the page again after a change of its style or script.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import dflash_mlx

PAGE = Path(dflash_mlx.__file__).parent / "server" / "page" / "index.html"
META = re.compile(r'(http-equiv="Content-Security-Policy" content=")[^"]*"')


def digest(html: str, tag: str) -> str:
    """The source expression of the content of an element without attributes."""
    content = html.split(f"<{tag}>", 1)[1].split(f"</{tag}>", 1)[0]
    value = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    return f"'sha256-{value}'"


def policy(html: str) -> str:
    """The policy that lets the page's own style and script run and nothing else."""
    return "; ".join(
        (
            "default-src 'none'",
            "connect-src 'self'",
            "img-src data:",
            f"style-src {digest(html, 'style')}",
            f"script-src {digest(html, 'script')}",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )


def with_policy(html: str) -> str:
    """The page with the policy that fits it."""
    return META.sub(rf'\g<1>{policy(html)}"', html)


if __name__ == "__main__":
    PAGE.write_text(with_policy(PAGE.read_text()))
