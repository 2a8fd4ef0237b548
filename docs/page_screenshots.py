"""Pictures of the server's page for docs/page.md, from a real browser.

    python docs/page_screenshots.py

Serves the embedded pair, chats with it in a headless Chromium, and writes
docs/images/page-*.png. What a small pair cannot show (reasoning, a full queue) comes
from the tests' stand-in for the server. Needs the development extras and Chromium.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from dflash_mlx import load  # noqa: E402
from tests.equipment.chat_server import ANSWERS, REFUSED, ChatServer  # noqa: E402
from tests.equipment.chromium import Chromium, Page  # noqa: E402
from tests.equipment.live_server import LiveServer  # noqa: E402

IMAGES = ROOT / "docs" / "images"
ANSWERED = "!job && document.querySelector('.assistant:last-of-type')"


def ask(page: Page, *messages: str) -> None:
    """Send messages, and wait for the answer to each."""
    for message in messages:
        page.js("$('input').focus()")
        page.type(message)
        page.press("Enter")
        page.wait(ANSWERED, seconds=60)


def show(page: Page, name: str, scheme: str = "light", width=1000, height=760) -> None:
    """Write a picture of the page."""
    page.prefer(scheme)
    page.resize(width, height)
    page.js("$('toast').hidden = true; toEnd(); document.activeElement.blur()")
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=0, y=height - 1)
    page.js("new Promise((done) => setTimeout(done, 300))")  # transitions end
    file = IMAGES / f"page-{name}.png"
    page.screenshot(file)
    print(file.relative_to(ROOT), f"{file.stat().st_size / 1000:.0f} kB")


def draw_real(browser: Chromium, url: str) -> None:
    """The pictures of the embedded pair."""
    with browser.open(url) as page:
        page.wait("models.length")
        show(page, "welcome")
        ask(page, "Write a Python function add that returns the sum of a and b.")
        page.click("#new")
        ask(page, "Make a table of squares from 1 to 5.")
        page.click("#new")
        page.click("#drafts")
        ask(page, "Write the 9 times table up to 12.")
        show(page, "drafts")
        show(page, "narrow", width=360, height=720)
        show(page, "dark", "dark")


def draw_stand_in(browser: Chromium, server: ChatServer) -> None:
    """The pictures of what a script answers."""
    with browser.open(server.url) as page:
        page.wait("models.length")
        ask(page, "Is 17 a prime number?", "What is a prime number?")
        show(page, "light", height=860)
        server.status |= {"running": 1, "waiting": 8}
        ask(page, "And 19?")
        page.js("poll()")
        page.wait("!$('condition').hidden")
        show(page, "error", width=700, height=500)


def main() -> None:
    """Draw all pictures."""
    IMAGES.mkdir(exist_ok=True)
    with Chromium() as browser:
        with LiveServer(*load("tiny")) as live:
            live.models.loaded.drafter = "tiny-dflash"
            draw_real(browser, live.url)
        ANSWERS["Is 17 a prime number?"] = ANSWERS["think"]
        ANSWERS["What is a prime number?"] = ANSWERS["markdown"]
        REFUSED["And 19?"] = REFUSED["busy"]
        with ChatServer() as server:
            server.open_gate(1000)
            draw_stand_in(browser, server)


if __name__ == "__main__":
    main()
