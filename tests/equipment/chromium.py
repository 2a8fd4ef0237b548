"""A headless Chromium, driven by its DevTools protocol over a pipe.

The pipe (file descriptors 3 and 4 of the browser) carries JSON messages that end with a
NUL byte, so that no driver program, websocket or Python package is needed.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import queue
import shutil
import signal
import tempfile
import threading
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SECONDS = 20.0  # that anything may take
# Keys by name: (code, Windows' number of the key, text).
KEYS = {
    "Enter": ("Enter", 13, "\r"),
    "Escape": ("Escape", 27, ""),
    "Tab": ("Tab", 9, ""),
    "ArrowUp": ("ArrowUp", 38, ""),
    "PageUp": ("PageUp", 33, ""),
    " ": ("Space", 32, " "),
}
SHIFT, CTRL = 8, 2


def executable() -> str | None:
    """The path of a Chromium or Chrome, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def wait(done, what: str, seconds: float = SECONDS):
    """Call a function until it returns something true; returns that.

    Raises:
        AssertionError: It returned nothing true within the time.
    """
    deadline = time.monotonic() + seconds
    while not (found := done()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.01)
    return found


class Chromium:
    """A running browser, as a context manager.

    Attributes:
        listeners: What is called with (method, params) of an event, by session.
    """

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="chromium-")
        self.listeners, self.answers, self.number = {}, {}, 0
        theirs_in, ours_out = map(_high, os.pipe())
        ours_in, theirs_out = map(_high, os.pipe())
        flags = [
            "--headless=new",
            "--remote-debugging-pipe",
            f"--user-data-dir={self.folder.name}",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-extensions",
            "--no-first-run",
            "--hide-scrollbars",
            *(["--no-sandbox"] if os.getuid() == 0 else []),
        ]
        quiet = os.open(os.devnull, os.O_RDWR)
        self.pid = os.posix_spawn(
            executable(),
            ["chromium", *flags],
            os.environ | {"HOME": self.folder.name},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, quiet, 1),
                (os.POSIX_SPAWN_DUP2, quiet, 2),
                (os.POSIX_SPAWN_DUP2, theirs_in, 3),
                (os.POSIX_SPAWN_DUP2, theirs_out, 4),
            ],
            setpgroup=0,
        )
        for fd in (quiet, theirs_in, theirs_out):
            os.close(fd)
        self.out, self.input = ours_out, os.fdopen(ours_in, "rb")
        threading.Thread(target=self._read, daemon=True).start()
        return self

    def __exit__(self, *_):
        os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.out)
        wait(self._removed, "removal of the profile")

    def _removed(self) -> bool:
        """Whether the profile is gone: processes that end may still write to it."""
        shutil.rmtree(self.folder.name, ignore_errors=True)
        return not Path(self.folder.name).exists()

    def _read(self):
        rest = b""
        while chunk := self.input.read1(1 << 20):
            *messages, rest = (rest + chunk).split(b"\0")
            for message in map(json.loads, messages):
                if "id" in message:
                    self.answers[message["id"]].put(message)
                elif listener := self.listeners.get(message.get("sessionId")):
                    listener(message["method"], message["params"])
        for answer in self.answers.values():
            answer.put({"error": "the browser has ended"})

    def call(self, method: str, session: str | None = None, **params):
        """Call a method of the DevTools protocol; returns its result."""
        self.number += 1
        number, answer = self.number, queue.Queue()
        self.answers[number] = answer
        message = {"id": number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.out, data) :]
        reply = answer.get(timeout=SECONDS)
        del self.answers[number]
        assert "result" in reply, f"{method}: {reply}"
        return reply["result"]

    def open(self, url: str, **size) -> Page:
        """Open a page in a profile of its own (storage, cache)."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        return Page(self, context, url, **size)


def _high(fd: int) -> int:
    """The same file under a number above 9, so that 3 and 4 are free."""
    copy = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(fd)
    return copy


class Page:
    """A page in the browser, used as a person uses it: mouse, keys, text.

    Attributes:
        requests: URLs that it asked for.
        errors: Exceptions in its script, and what its policy refused.
        downloads: The folder of its downloads.
    """

    def __init__(self, browser, context, url, width=1100, height=800):
        self.browser, self.context = browser, context
        self.requests, self.errors = [], []
        target = browser.call(
            "Target.createTarget",
            url="about:blank",
            browserContextId=context,
            width=width,
            height=height,
        )["targetId"]
        self.session = browser.call(
            "Target.attachToTarget", targetId=target, flatten=True
        )["sessionId"]
        browser.listeners[self.session] = self._listen
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.resize(width, height)
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)
        self.downloads = Path(browser.folder.name) / f"downloads-{context}"
        browser.call(
            "Browser.setDownloadBehavior",
            behavior="allow",
            browserContextId=context,
            downloadPath=str(self.downloads),
        )
        self.go(url)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.browser.call("Target.disposeBrowserContext", browserContextId=self.context)

    def _listen(self, method, params):
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(params["exceptionDetails"])
        elif method == "Log.entryAdded":
            entry = params["entry"]  # of the network: an answer such as 429
            if entry["level"] == "error" and entry["source"] != "network":
                self.errors.append(entry)

    def call(self, method: str, **params):
        return self.browser.call(method, self.session, **params)

    def go(self, url: str) -> None:
        """Load a page and wait until its script has run."""
        self.call("Page.navigate", url=url)
        self.wait(
            f"location.href.startsWith({json.dumps(url)}) && document.readyState", url
        )

    def reload(self) -> None:
        self.js("window.old = true")
        self.call("Page.reload")
        self.wait("!window.old && document.readyState === 'complete'")

    def js(self, expression: str):
        """The value of an expression in the page; promises are awaited."""
        reply = self.call(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
        )
        assert "exceptionDetails" not in reply, reply["exceptionDetails"]
        return reply["result"].get("value")

    def wait(self, expression: str, what: str | None = None, seconds=SECONDS):
        """Wait until an expression is true."""

        def done():
            try:
                return self.js(f"Boolean({expression})")
            except AssertionError:  # between two documents, or not there yet
                return None

        try:
            return wait(done, what or expression, seconds)
        except AssertionError as error:
            text = self.js("document.body.innerText")
            raise AssertionError(f"{error}\n{text}\n{self.errors}") from None

    def text(self, selector: str) -> str:
        """What a person reads in the first element that fits."""
        return self.js(f"document.querySelector({json.dumps(selector)}).innerText")

    def count(self, selector: str) -> int:
        return self.js(f"document.querySelectorAll({json.dumps(selector)}).length")

    def shows(self, selector: str) -> bool:
        """Whether an element is there and visible."""
        find = f"document.querySelector({json.dumps(selector)})"
        return self.js(
            f"Boolean({find}?.checkVisibility({{visibilityProperty: true}}))"
        )

    def click(self, selector: str) -> None:
        """Click the middle of the first element that fits."""
        find = f"document.querySelector({json.dumps(selector)})"
        self.wait(f"{find}?.checkVisibility()", f"{selector} is visible")
        x, y = self.js(
            f"{find}.scrollIntoView({{block: 'nearest'}});"
            f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])"
            f"({find}.getBoundingClientRect())"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call(
                "Input.dispatchMouseEvent",
                type=kind,
                x=x,
                y=y,
                button="left",
                clickCount=1,
            )

    def type(self, text: str) -> None:
        """Insert text where the focus is."""
        self.call("Input.insertText", text=text)

    def press(self, name: str, modifiers: int = 0) -> None:
        """Press a key."""
        code, number, text = KEYS[name]
        key = {"key": name, "code": code, "windowsVirtualKeyCode": number}
        if modifiers & CTRL:
            text = ""
        down = {"type": "keyDown" if text else "rawKeyDown", "text": text}
        self.call("Input.dispatchKeyEvent", **down, **key, modifiers=modifiers)
        self.call("Input.dispatchKeyEvent", type="keyUp", **key, modifiers=modifiers)

    def resize(self, width: int, height: int, scale: float = 1) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=False,
        )

    def prefer(self, scheme: str) -> None:
        """Set the system's colour scheme: light or dark."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[feature])

    def screenshot(self, file: Path) -> None:
        data = self.call("Page.captureScreenshot", format="png")["data"]
        file.write_bytes(base64.b64decode(data))

    def roles(self) -> list[tuple[str, str]]:
        """(role, name) of what a screen reader finds."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return [
            (n["role"]["value"], n.get("name", {}).get("value", ""))
            for n in nodes
            if not n["ignored"]
        ]
