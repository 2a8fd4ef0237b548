"""The chat page in a real Chromium, against a stand-in for the server."""

import json
import re

import pytest

from tests.equipment import chromium
from tests.equipment.chat_server import HOSTILE, MARKDOWN, ChatServer
from tests.equipment.chromium import CTRL, SHIFT, Chromium
from tests.equipment.page_policy import PAGE, with_policy

pytestmark = pytest.mark.slow
ANSWERED = "!job && document.querySelector('.assistant:last-of-type')"
LAST = "article.assistant:last-of-type"


@pytest.fixture(scope="module")
def browser():
    if not chromium.executable():
        pytest.skip("no Chromium: `apt install chromium`")
    with Chromium() as running:
        yield running


@pytest.fixture(scope="module")
def running_server():
    with ChatServer() as running:
        yield running


@pytest.fixture
def server(running_server):
    running_server.reset()
    return running_server


@pytest.fixture
def page(browser, server):
    with browser.open(server.url) as opened:
        opened.wait("models.length && server.kind === 'ready'")
        yield opened
        assert not opened.errors
        hosts = {re.match(r"\w+:(//[^/]*)?", url)[0] for url in opened.requests}
        assert hosts <= {server.url.rstrip("/"), "data:", "blob:"}


def send(page, text, wait=True):
    """Type a message and press Enter; wait for the end of its answer."""
    page.js("$('input').focus()")
    page.type(text)
    page.press("Enter")
    if wait:
        page.wait(ANSWERED)


def style(page, selector, name):
    return page.js(f"getComputedStyle(document.querySelector('{selector}')).{name}")


def test_the_policy_allows_this_style_and_script_and_nothing_else():
    html = PAGE.read_text()
    assert html == with_policy(html), "run python -m tests.equipment.page_policy"
    assert "unsafe" not in html and "innerHTML" not in html
    assert not re.search(r"<(link|img|script)[^>]*\b(src|href)=.https?:", html)


def test_a_message_is_sent_and_its_answer_streams(page, server):
    send(page, "slow", wait=False)
    server.open_gate(2)
    page.wait(f"$('log').innerText.includes('word1') && {LAST!r}")
    page.wait("document.querySelector('.figures').innerText.includes('48.3 tokens/s')")
    assert "word2" not in page.text(LAST) and page.shows("#stop")
    server.open_gate(8)
    page.wait(ANSWERED)
    assert " ".join(f"word{i}" for i in range(10)) in page.text(LAST)
    assert page.text(".user .text") == "slow" and page.shows("#send")
    figures = " ".join(page.text(".figures").split())
    assert figures == (
        "51.5 tokens/s 4.0 tokens/round 3.1× plain 100 % drafted"
        " 0.12 s to the first token 10 tokens"
    )
    assert page.text("#context") == "34 of 4,096 tokens of context"
    (body,) = server.bodies
    assert body == {
        "model": "tiny",
        "stream": True,
        "stream_options": {"include_usage": True},
        "dflash": {"drafts": True},
        "messages": [{"role": "user", "content": "slow"}],
    }


def test_the_conversation_goes_with_the_next_message(page, server):
    send(page, "one")
    send(page, "two")
    assert server.bodies[1]["messages"] == [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "You said: one"},
        {"role": "user", "content": "two"},
    ]


def test_markdown_becomes_elements(page):
    send(page, "markdown")
    structure = page.js(
        f"[...document.querySelectorAll('{LAST} .text > *')].map(e => e.localName)"
    )
    assert structure == ["h3", "p", "ul", "ol", "div", "blockquote", "figure", "p"]
    for tag, text in (
        ("p strong", "prime"),
        ("p em", "two"),
        ("p code", "1"),
        ("p del", "it"),
        ("ul ul li", "nested"),
        ("ol li + li", "second"),
        ("thead th + th", "prime"),
        ("tbody tr + tr td", "4"),
        ("blockquote p", "quoted"),
        ("figcaption", "python\nCopy"),
        ("pre .k", "def"),
        ("pre .c", "# trial division"),
    ):
        assert page.text(f"{LAST} {tag}") == text
    assert style(page, "tbody td", "textAlign") == "right"
    link = "document.querySelector('article a')"
    assert page.js(f"[{link}.href, {link}.rel, {link}.target]") == [
        "https://example.org/a_(b)",
        "noopener noreferrer",
        "_blank",
    ]


def test_however_a_text_is_split_the_page_shows_the_same(page):
    """Pieces of text are rendered as they come, with what is finished left alone."""
    parts = ["# h\n", "a **b** c\n", "\n", "\n", "- x\n", "  - y\n", "1. z\n", "```\n"]
    parts += ["|a|b|\n|-|-|\n", "|1|`2`|\n", "> q\n", "---\n", "*i* `c`\n", "`", "**"]
    parts += ["  deep\n", "2. two\n", "~~~py\n# x\n", "~~~\n", "_u_ [l](http://a.b)\n"]
    different = page.js(f"""(() => {{
      let seed = 1;
      const random = (n) => (seed = seed * 16807 % 2147483647) % n;
      const shown = (pieces) => {{
        const stream = new Markdown(document.createElement("div"));
        for (const piece of pieces) {{
          stream.push(piece, random(2) === 1);
          stream.render();
        }}
        stream.render(true);
        for (const span of [...stream.root.querySelectorAll(".drafted")])
          span.replaceWith(...span.childNodes);
        stream.root.normalize();
        return stream.root.outerHTML;
      }};
      const parts = {json.dumps(parts)};
      for (let round = 0; round < 400; round++) {{
        const text = Array.from({{length: 1 + random(9)}},
          () => parts[random(parts.length)]).join("");
        const pieces = [];
        for (let at = 0; at < text.length;) {{
          const end = at + 1 + random(4);
          pieces.push(text.slice(at, end));
          at = end;
        }}
        if (shown(pieces) !== shown([text])) return text;
      }}
      return "";
    }})()""")
    assert different == ""


def test_text_of_the_model_cannot_act(page):
    send(page, "hostile")
    assert page.js("window.hurt") is None
    assert page.count("#log script, #log img, #log b:not(.figures b)") == 0
    assert page.count(f"{LAST} .text a") == 1  # the picture, as a link to click
    shown = page.text(LAST)
    assert "<script>window.hurt = 1</script>" in shown
    assert "[a link](javascript:window.hurt=1)" in shown
    # Even a mistake in the page that made HTML of text would be refused.
    error = page.js("try { document.body.innerHTML = '<b>x</b>' } catch (e) { e.name }")
    assert error == "TypeError" or page.errors.pop()
    page.errors.clear()
    send(page, HOSTILE)
    assert page.text(".user:last-of-type .text, .user ~ .user .text") == HOSTILE.strip()


def test_hostile_markdown_ends_in_time(page):
    took = page.js("""(() => {
      const began = performance.now();
      for (const text of ["*a ", "[", "`a ``b ", "> ", "**a *b ", "- ", "| ", "![a](", "_a"])
        new Markdown(document.createElement("div")).push(text.repeat(5000));
      for (const text of ["*a ", "[", "`a ``b ", "> ", "**a *b ", "- ", "|-", "![a](", "_a"]) {
        const stream = new Markdown(document.createElement("div"));
        stream.push(text.repeat(5000));
        stream.render(true);
      }
      return performance.now() - began;
    })()""")
    assert took < 2000


def test_escape_stops_the_answer_and_keeps_what_came(page, server):
    send(page, "slow", wait=False)
    server.open_gate()
    page.wait("$('log').innerText.includes('word0')")
    page.press("Escape")
    page.wait(ANSWERED)
    assert "word0" in page.text(LAST)
    assert page.text(f"{LAST} .note") == "You stopped this answer."
    chromium.wait(lambda: server.cut == 1, "the server saw the page disconnect")
    assert page.js("document.activeElement.id") == "input"


def test_the_stop_button_stops(page, server):
    send(page, "slow", wait=False)
    page.click("#stop")
    page.wait(ANSWERED)
    assert page.shows("#send")


def test_retry_asks_again_in_place_of_the_last_answer(page, server):
    send(page, "one")
    send(page, "two")
    page.click(f"{LAST} .retry")
    page.wait(f"{ANSWERED} && $('log').innerText.includes('two')")
    assert page.count("article") == 4
    assert server.bodies[2] == server.bodies[1]
    assert not page.shows(".assistant .retry")  # of the first answer


def test_the_last_message_is_edited(page, server):
    send(page, "one")
    send(page, "two")
    page.press("ArrowUp")
    assert page.js("$('input').value") == "two" and page.shows("#editing")
    page.press("Escape")
    assert page.js("$('input').value") == "" and not page.shows("#editing")
    page.click(".user ~ .user .edit")
    page.type(" more")
    page.press("Enter")
    page.wait(ANSWERED)
    assert page.count("article") == 4
    assert server.bodies[2]["messages"][1:] == [
        {"role": "assistant", "content": "You said: one"},
        {"role": "user", "content": "two more"},
    ]


def test_drafted_tokens_are_coloured_on_a_switch(page):
    send(page, "markdown")
    drafted = "".join(
        MARKDOWN[i : i + 12] for i in range(0, len(MARKDOWN), 16)
    )  # of 16 characters, the first 12
    runs = page.js("chat.messages[1].drafts")
    at, kept = 0, ""
    for i, length in enumerate(runs):
        kept += MARKDOWN[at : at + length] if i % 2 else ""
        at += length
    assert kept == drafted and at == len(MARKDOWN)
    spans = page.js(
        f"[...document.querySelectorAll('{LAST} .drafted')].map(e => e.textContent)"
    )
    position = 0
    for span in "".join(spans):  # in order, but for the marks of Markdown
        position = drafted.index(span, position) + 1
    clear = "rgba(0, 0, 0, 0)"
    assert style(page, f"{LAST} .drafted", "backgroundColor") == clear
    assert not page.shows("#legend")
    page.click("#drafts")
    assert style(page, f"{LAST} .drafted", "backgroundColor") != clear
    assert "guessed by the drafter (tiny-dflash)" in page.text("#legend")
    page.reload()
    page.wait("$('drafts').ariaChecked === 'true'")


def test_code_is_copied(browser, page):
    browser.call(
        "Browser.grantPermissions",
        permissions=["clipboardReadWrite", "clipboardSanitizedWrite"],
        browserContextId=page.context,
    )
    send(page, "markdown")
    page.click("figcaption button")
    page.wait("document.querySelector('figcaption').innerText.includes('Copied')")
    code = MARKDOWN.split("```python\n")[1].split("```")[0]
    assert page.js("navigator.clipboard.readText()") == code
    page.click(f"{LAST} .actions button")
    page.wait(
        "document.querySelector('.assistant .actions').innerText.includes('Copied')"
    )
    assert page.js("navigator.clipboard.readText()") == MARKDOWN


def test_dark_and_light_follow_the_system_and_a_switch(page):
    def background():
        return style(page, "body", "backgroundColor")

    page.prefer("light")
    light = background()
    page.prefer("dark")
    dark = background()
    assert light == "rgb(255, 255, 255)" and dark != light
    page.click("#theme")  # from the system's to dark, then to light
    page.prefer("light")
    assert background() == dark
    page.click("#theme")
    page.prefer("dark")
    assert background() == light
    page.reload()
    assert background() == light
    assert page.js("$('theme').ariaLabel") == "Theme: light"


def test_everything_is_done_with_the_keyboard(page, server):
    def focused():
        return page.js("document.activeElement.id || document.activeElement.className")

    page.js("document.activeElement.blur()")
    page.press("Tab")
    assert focused() == "skip"
    page.press("Enter")
    page.type("first")
    page.press("Enter", SHIFT)
    page.type("second")
    page.press("Enter", CTRL)
    page.wait(ANSWERED)
    assert server.bodies[0]["messages"][0]["content"] == "first\nsecond"
    reached = []
    page.js("document.activeElement.blur()")
    for _ in range(30):
        page.press("Tab")
        reached.append(focused())
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        if reached[-1] not in ("input", ""):
            assert page.js(outline) != "none", reached[-1]
        if reached[-1] == "drafts":
            page.press(" ")
    wanted = "skip new open export import model drafts theme settings-open log"
    found = [name for name in reached if name in wanted.split()]
    assert found[: len(wanted.split())] == wanted.split()
    assert "last edit" in reached and "last retry" in reached
    assert page.js("$('drafts').ariaChecked") == "true"
    page.js("$('settings-open').focus()")
    page.press("Enter")
    assert page.js("$('settings').open")
    page.press("Escape")
    assert not page.js("$('settings').open") and focused() == "settings-open"


def test_a_screen_reader_finds_roles_and_names(page):
    send(page, "markdown")
    roles = page.roles()
    for wanted in (
        ("navigation", "Conversations"),
        ("main", ""),
        ("textbox", "Message"),
        ("button", "Send"),
        ("switch", "Drafts"),
        ("combobox", "Model"),
        ("region", "Messages"),
        ("article", "You"),
        ("article", "tiny"),
        ("button", "Settings"),
        ("button", "Rename markdown"),
        ("button", "Delete markdown"),
        ("status", ""),
    ):
        assert wanted in roles, wanted
    assert all(name for role, name in roles if role in ("button", "textbox", "switch"))
    live = "document.querySelector('[aria-live=polite]').textContent"
    assert page.js(live) == "The answer is complete."


def test_finished_blocks_are_announced(page, server):
    page.js("window.said = []; announce = undefined") if False else None
    page.js(
        "window.said = []; new MutationObserver(() => said.push($('live').textContent))"
        ".observe($('live'), {childList: true, characterData: true, subtree: true})"
    )
    send(page, "markdown")
    said = page.js("said")
    assert said[-1] == "The answer is complete."
    assert "The end." in said or "Code" in said or "Primes" in said


def test_a_key_is_asked_for_and_kept_for_the_session(browser, server):
    server.key = "secret"
    with browser.open(server.url) as page:
        page.wait("$('key').open")
        page.press("Escape")
        page.wait("$('state').innerText === 'key needed'")
        assert page.text("#condition span") == "The server asks for an API key."
        page.click("#condition button")
        page.wait("$('key').open && !$('refused').checkVisibility()")
        page.type("wrong")
        page.press("Enter")
        page.wait("$('key').open && $('refused').checkVisibility()")
        page.type("secret")
        page.press("Enter")
        page.wait("$('state').innerText === 'ready' && models.length")
        send(page, "hello")
        assert "You said: hello" in page.text(LAST)
        assert page.js("Object.values(sessionStorage)") == ["secret"]
        assert "secret" not in page.js("JSON.stringify(localStorage)")
        assert not page.errors


@pytest.mark.parametrize(
    "message, said",
    [
        ("busy", "The queue is full: 8 requests wait. Try again in 3 seconds."),
        ("wrong", "temperature is 9, which is above 5. Change the message or"),
        ("crash", "The model failed. Retry; if it fails again, read the server's log."),
        ("error", "The GPU ran out of memory. Retry; if it fails again, read the"),
        ("broken", "The connection broke in the middle of the answer. Retry it when"),
    ],
)
def test_an_error_is_a_sentence_with_what_to_do(page, server, message, said):
    send(page, message)
    assert page.text(f"{LAST} [role=alert]").startswith(said)
    if message in ("error", "broken"):
        assert "Half an" in page.text(LAST)
    server.bodies.clear()
    page.click(f"{LAST} .retry")
    page.wait(ANSWERED)
    assert [m["content"] for m in server.bodies[0]["messages"]] == [message] or (
        not server.bodies
    )
    assert page.count("article") == 2


def test_the_page_connects_again_when_the_server_restarts(page, server):
    send(page, "slow", wait=False)
    server.open_gate()
    page.wait("$('log').innerText.includes('word0')")
    server.stop()
    page.wait(ANSWERED)
    assert page.text(f"{LAST} .error").startswith("The connection broke")
    page.wait("$('state').innerText === 'no answer'")
    assert "dflash-mlx serve" in page.text("#condition")
    send(page, "nobody hears")
    assert page.text(f"{LAST} .error").startswith("The server does not answer.")
    server.start()
    page.wait("$('state').innerText === 'ready'")
    assert not page.shows("#condition")
    page.click(f"{LAST} .retry")
    page.wait(f"{ANSWERED} && $('log').innerText.includes('You said')")


def test_waiting_loading_and_a_busy_server_are_shown(page, server):
    server.status |= {"running": 1, "waiting": 2}
    page.js("poll()")
    page.wait("$('state').innerText === '1 running, 2 waiting'")
    assert page.text("#condition").startswith("The server is busy: 1 running, 2")
    server.status |= {"running": 0, "waiting": 0, "state": "loading", "model": "other"}
    page.js("poll()")
    page.wait("$('state').innerText === 'loading'")
    assert page.text("#condition").startswith("other is loading.")
    send(page, "queue", wait=False)
    page.wait("$('log').innerText.includes('Waiting in the queue: place 2')")
    server.open_gate()
    page.wait("$('log').innerText.includes('512 of 2,048 tokens')")
    bar = f"document.querySelector('{LAST} progress')"
    assert page.js(f"{bar}.value / {bar}.max") == 0.25
    server.open_gate()
    page.wait(ANSWERED)
    assert not page.shows(f"{LAST} progress") and not page.shows(f"{LAST} .note")


def test_reasoning_folds_away_when_the_answer_begins(page, server):
    send(page, "think", wait=False)
    page.wait("$('log').innerText.includes('is prime.')")
    details = f"document.querySelector('{LAST} details')"
    assert page.js(f"{details}.open") and page.text("summary") == "Thinking"
    server.open_gate()
    page.wait(ANSWERED)
    assert not page.js(f"{details}.open")
    assert re.fullmatch(r"Reasoning, \d+\.\d s", page.text("summary"))
    page.click("summary")
    assert page.text(f"{LAST} details strong") == "17"
    send(page, "next")
    assert server.bodies[1]["messages"][1] == {
        "role": "assistant",
        "content": "Seventeen is prime.",
        "reasoning_content": "Let me see: **17** is prime.",
    }


def test_tool_calls_are_shown(page):
    send(page, "tool")
    assert page.text(f"{LAST} .tool") == 'Tool call: weather\n{"city": "Oslo"}'
    page.reload()
    page.click("#chats .open")
    assert page.text(f"{LAST} .tool").startswith("Tool call: weather")


def test_settings_go_into_the_request(page, server):
    page.click("#settings-open")
    for name, value in (
        ("system", "Be brief."),
        ("temperature", "0.7"),
        ("top_p", "3"),  # out of range: not taken
        ("max_tokens", "64"),
        ("seed", "5"),
    ):
        page.js(f"document.querySelector('[name={name}]').focus()")
        page.type(value)
    page.js(
        "{const s = document.querySelector('[name=thinking]'); s.value = 'off';"
        "s.dispatchEvent(new Event('input', {bubbles: true}))}"
    )
    assert page.count("#settings :is(input, select, textarea):invalid") == 1
    page.press("Escape")
    page.js("$('model').value = 'other'; $('model').dispatchEvent(new Event('change'))")
    page.reload()
    page.wait("models.length")
    send(page, "hi")
    (body,) = server.bodies
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert body["model"] == "other"
    wanted = {"temperature": 0.7, "max_tokens": 64, "seed": 5}
    assert {k: body[k] for k in wanted} == wanted and "top_p" not in body
    assert body["chat_template_kwargs"] == {"enable_thinking": False}


def test_conversations_are_kept_renamed_deleted_and_exported(page, server):
    send(page, "one")
    page.click("#new")
    send(page, "markdown")
    page.reload()
    page.wait("models.length")
    titles = "[...document.querySelectorAll('#chats .open')].map(e => e.innerText)"
    assert page.js(titles) == ["markdown", "one"]
    page.click("#chats .open")
    page.wait(f"document.querySelector('{LAST} figure')")
    page.click("#chats [aria-label='Rename one']")
    page.type("The first")
    page.press("Enter")
    assert page.js(titles) == ["markdown", "The first"]
    page.click("#chats [aria-label='Delete markdown']")
    assert page.js(titles) == ["The first"] and page.shows("#welcome")
    page.click("#toast button")
    assert page.js(titles) == ["markdown", "The first"]
    page.click("#export")
    file = page.downloads / "conversations.json"
    chromium.wait(file.exists, "the download")
    found = json.loads(file.read_text())["conversations"]
    assert {each["title"] for each in found} == {"markdown", "The first"}
    assert MARKDOWN in [m["content"] for each in found for m in each["messages"]]


def test_an_exported_file_is_imported(page, server, tmp_path):
    message = {"role": "assistant", "content": "<b>hi</b>", "drafts": [3, 6]}
    messages = [{"role": "user", "content": "one"}, message]
    file = tmp_path / "conversations.json"
    file.write_text(
        json.dumps({"conversations": [{"title": "T", "messages": messages}]})
    )
    node = page.call("Runtime.evaluate", expression="$('file')")["result"]["objectId"]
    page.call("DOM.setFileInputFiles", files=[str(file)], objectId=node)
    page.wait("$('toast').innerText.includes('1 conversations are imported')")
    page.click("#chats .open")
    assert page.text(f"{LAST} .text") == "<b>hi</b>"
    assert page.text(f"{LAST} .drafted") == "b>hi</"[:0] + "hi</b>"[:6]


def test_a_narrow_window_needs_no_sideways_scrolling(page):
    page.resize(360, 640)
    send(page, "markdown")
    send(page, "W" * 200)
    wide = "document.documentElement.scrollWidth > 360 || $('log').scrollWidth > 360"
    assert not page.js(wide)
    assert not page.shows("#side")
    page.click("#menu")
    page.wait("$('side').getBoundingClientRect().left === 0")
    assert page.js("$('menu').ariaExpanded") == "true"
    page.press("Escape")
    page.wait("!$('side').checkVisibility({visibilityProperty: true})")
    assert page.js("document.activeElement.id") == "menu" and not page.js(wide)


def test_a_long_answer_is_appended_not_made_again(page, server):
    page.js("window.first = null")
    send(page, "long", wait=False)
    page.wait("window.first = document.querySelector('.assistant .text p')")
    page.wait("document.querySelectorAll('.assistant .text p').length > 3")
    page.js("first = document.querySelector('.assistant .text p')")
    page.wait("!job")
    assert page.js("first.isConnected")
    assert "It is over." in page.text(LAST)
    assert page.js("job === null && pinned")
    # Rendering took a fifth of the time at most; the last piece of it is a blink.
    assert (
        page.js(
            "(() => { const s = new Markdown(document.createElement('div'));"
            "s.push(chat.messages[1].content); s.render(); s.push('more'); "
            "const t = performance.now(); s.render(); return performance.now() - t })()"
        )
        < 100
    )


def test_the_page_scrolls_along_only_at_the_end(page, server):
    page.resize(600, 400)
    send(page, "markdown")
    send(page, "slow", wait=False)
    server.open_gate()
    page.wait("$('log').innerText.includes('word0')")
    assert page.js("log.scrollHeight - log.scrollTop - log.clientHeight") < 2
    page.js("log.scrollTop = 0")
    page.wait("!$('jump').hidden")
    server.open_gate()
    page.wait("$('log').innerText.includes('word1')")
    assert page.js("log.scrollTop") == 0
    page.click("#jump")
    page.wait("log.scrollHeight - log.scrollTop - log.clientHeight < 2")
    server.open_gate(8)
    page.wait(ANSWERED)
    assert page.js("log.scrollHeight - log.scrollTop - log.clientHeight") < 2
