"""What tests do on the chat page."""

from __future__ import annotations

from tests.equipment.chromium import Page

# No answer is being written, and there is one.
ANSWERED = "!job && document.querySelector('.assistant:last-of-type')"
LAST = "article.assistant:last-of-type"  # the last answer


def send(page: Page, text: str, wait: bool = True) -> None:
    """Type a message and press Enter; wait for the end of its answer."""
    page.js("$('input').focus()")
    page.type(text)
    page.press("Enter")
    if wait:
        page.wait(ANSWERED)


def style(page: Page, selector: str, name: str) -> str:
    """A property of the computed style of the first element that fits."""
    return page.js(f"getComputedStyle(document.querySelector('{selector}')).{name}")
