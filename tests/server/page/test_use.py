"""Using the chat page: keyboard, screen reader, themes, width, conversations."""

import json

import pytest

from tests.equipment import chromium
from tests.equipment.chat_page import ANSWERED, LAST, send, style
from tests.equipment.chat_server import MARKDOWN
from tests.equipment.chromium import CTRL, SHIFT

pytestmark = pytest.mark.slow


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

    page.js("$('new').focus()")
    page.press("Tab", SHIFT)
    assert focused() == "skip"
    page.press("Enter")
    page.type("first")
    low = page.js("$('input').clientHeight")
    page.press("Enter", SHIFT)
    page.type("second")
    assert page.js("$('input').clientHeight") > low
    page.press("Enter", CTRL)
    page.wait(ANSWERED)
    assert page.js("$('input').clientHeight") == low
    assert server.bodies[0]["messages"][0]["content"] == "first\nsecond"
    reached = []
    page.js("$('new').focus()")
    page.press("Tab", SHIFT)
    while reached[-1:] != ["send"]:
        page.press("Tab")
        reached.append(focused())
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        if reached[-1] not in ("input", ""):
            assert page.js(outline) != "none", reached[-1]
        if reached[-1] == "drafts":
            page.press(" ")
    wanted = "new open export import model drafts theme settings-open log"
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
    assert page.js("$('live').ariaLive") == "polite"
    said = page.js("[...$('live').children].map(e => e.textContent)")
    assert said[:2] == ["Primes", "A prime has two divisors, 1 and it itself."]
    assert said[-3:] == ["Code", "The end.", "The answer is complete."]


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


def test_what_came_is_kept_when_the_page_is_closed(page, server):
    send(page, "slow", wait=False)
    server.open_gate()
    page.wait("$('log').innerText.includes('word0')")
    page.reload()
    page.click("#chats .open")
    assert page.text(f"{LAST} > .text").strip() == "word0"
    assert page.text(f"{LAST} .note").startswith("The page was closed while")


def test_the_end_of_an_answer_leaves_a_name_that_is_being_typed(page, server):
    send(page, "slow", wait=False)
    page.click("#chats [aria-label='Rename slow']")
    page.type("A new na")
    server.open_gate(10)
    page.wait(ANSWERED)
    # Nor does another tab that saves a conversation.
    page.js("dispatchEvent(new StorageEvent('storage', {key: 'dflash-mlx/chat/x'}))")
    page.type("me")
    page.press("Enter")
    assert page.text("#chats .open") == "A new name"


def test_an_exported_file_is_imported(page, server, tmp_path):
    message = {"role": "assistant", "content": "<b>hi</b>", "drafts": [3, 6]}
    messages = [{"role": "user", "content": "one"}, message]
    file = tmp_path / "conversations.json"
    file.write_text(
        json.dumps({"conversations": [{"title": "T", "messages": messages}]})
    )
    node = page.call("Runtime.evaluate", expression="$('file')")["result"]["objectId"]
    page.call("DOM.setFileInputFiles", files=[str(file)], objectId=node)
    page.wait("$('toast').innerText.includes('Conversations imported: 1.')")
    page.click("#chats .open")
    assert page.text(f"{LAST} > .text") == "<b>hi</b>"
    assert page.text(f"{LAST} .drafted") == "hi</b>"


def test_a_narrow_window_needs_no_sideways_scrolling(page):
    page.resize(360, 640)
    send(page, "markdown")
    send(page, "W" * 200)
    wide = "document.documentElement.scrollWidth > 360 || $('log').scrollWidth > 360"
    assert not page.js(wide)
    page.wait("!$('side').checkVisibility({visibilityProperty: true})")
    page.click("#menu")
    page.wait("$('side').getBoundingClientRect().left === 0")
    assert page.js("$('menu').ariaExpanded") == "true"
    assert page.js("document.activeElement.id") == "new"
    page.press("Escape")
    page.wait("!$('side').checkVisibility({visibilityProperty: true})")
    assert page.js("document.activeElement.id") == "menu" and not page.js(wide)
