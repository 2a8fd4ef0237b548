"""Answers on the chat page: Markdown, drafts, reasoning, tool calls, hostile text."""

import json
import re

import pytest

from tests.equipment.chat_page import ANSWERED, LAST, send, style
from tests.equipment.chat_server import HOSTILE, MARKDOWN
from tests.equipment.page_policy import PAGE, with_policy

pytestmark = pytest.mark.slow


def test_the_policy_allows_this_style_and_script_and_nothing_else():
    html = PAGE.read_text()
    assert html == with_policy(html), "run python -m tests.equipment.page_policy"
    assert "unsafe" not in html and "innerHTML" not in html
    assert not re.search(r"<(link|img|script)[^>]*\b(src|href)=.https?:", html)


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
    assert error == "TypeError"
    page.errors.clear()  # the console tells of the refusal
    send(page, HOSTILE)
    assert page.text(".user:last-of-type .text, .user ~ .user .text") == HOSTILE.strip()


def test_hostile_markdown_ends_in_time(page):
    texts = ["*a ", "[", "`a ``b ", "> ", "**a *b ", "- ", "|-", "![a](", "_a"]
    took = page.js(f"""{json.dumps(texts)}.map((text) => {{
      const began = performance.now();
      const stream = new Markdown(document.createElement("div"));
      stream.push(text.repeat(5000));
      stream.render(true);
      return performance.now() - began;
    }})""")
    assert max(took) < 2000, dict(zip(texts, took, strict=True))


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
    spans = f"[...document.querySelectorAll('{LAST} .drafted')].map(e => e.innerText)"
    shown, position = page.js(spans), 0
    for character in "".join(shown):  # all, in order, but for the marks of Markdown
        position = drafted.index(character, position) + 1
    assert len("".join(shown)) > 100
    clear = "rgba(0, 0, 0, 0)"
    assert style(page, f"{LAST} .drafted", "backgroundColor") == clear
    assert not page.shows("#legend")
    page.click("#drafts")
    assert style(page, f"{LAST} .drafted", "backgroundColor") != clear
    assert "guessed by the drafter (tiny-dflash)" in page.text("#legend")
    page.reload()
    page.wait("$('drafts').ariaChecked === 'true'")
    page.click("#chats .open")
    assert page.js(spans) == shown


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
    shown = page.text(f"{LAST} .tool")
    send(page, "next")
    page.click(f"{LAST} .retry")
    page.wait(ANSWERED)
    assert page.text(".tool") == shown  # of the first answer
    page.reload()
    page.click("#chats .open")
    assert page.text(".tool") == shown


def test_a_long_answer_is_appended_not_made_again(page):
    send(page, "long")
    assert "It is over." in page.text(LAST) and page.js("pinned")
    # What is added costs as little after 40,000 characters as at the beginning.
    took, same = page.js("""(() => {
      const stream = new Markdown(document.createElement("div"));
      stream.push(chat.messages[1].content + "\\n\\n```py\\nx = 1\\n");
      stream.render();
      const before = [...stream.root.querySelectorAll("*")];
      stream.push("y = 2\\nz");
      const began = performance.now();
      stream.render();
      return [performance.now() - began, before.every((node) => node.isConnected
        || stream.root.contains(node))];
    })()""")
    assert took < 50 and same


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
