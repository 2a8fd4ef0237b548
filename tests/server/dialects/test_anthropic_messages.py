"""Anthropic's system prompt and messages, as chat templates read them."""

import pytest

from dflash_mlx.server.dialects.anthropic_messages import read_conversation
from dflash_mlx.server.dialects.carried import pack_reasoning
from dflash_mlx.server.errors import RequestError

LINE = "x-anthropic-billing-header: cc_version=2.1.173.{}; cc_entrypoint=cli; cch={};"
USER = {"role": "user", "content": "Hi"}
CALL = {"type": "tool_use", "id": "t1", "name": "read", "input": {"path": "a"}}
IMAGE = {"type": "image", "source": {"type": "base64", "data": "AA=="}}


def read(*messages, system=None):
    """The messages, each as (role, content)."""
    found, _ = read_conversation(system, messages)
    return [(message["role"], message["content"]) for message in found]


def result(content, **more):
    block = {"type": "tool_result", "tool_use_id": "t1", "content": content, **more}
    return {"role": "user", "content": [block]}


def test_text_and_blocks_are_read_alike():
    blocks = [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]
    assert read(USER) == read({"role": "user", "content": blocks}) == [("user", "Hi")]
    two = [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}]
    assert read({"role": "user", "content": two}) == [("user", "A\n\nB")]


@pytest.mark.parametrize(
    "system",
    [
        LINE.format("a1b", "00000") + "\nYou are helpful.",
        LINE.format("zzz", "fffff") + "You are helpful.",
        [LINE.format("c3d", "12345"), "You are helpful."],
        [LINE.format("c3d", "12345").removesuffix(";"), "You are helpful."],
        [LINE.format("c3d", "1") + "\nYou are helpful."],
    ],
)
def test_the_billing_line_is_stripped(system):
    if isinstance(system, list):
        system = [{"type": "text", "text": text} for text in system]
    assert read(USER, system=system) == [("system", "You are helpful."), ("user", "Hi")]


def test_a_system_of_the_billing_line_alone_is_none():
    assert read(USER, system=LINE.format("a", "b")) == [("user", "Hi")]


def test_what_follows_the_billing_line_is_kept():
    line = LINE.format("a", "b").removesuffix(";")
    assert read(USER, system=f"{line}\nBe brief; be kind.")[0][1] == (
        "Be brief; be kind."
    )


def test_a_text_that_mentions_the_billing_header_is_kept():
    text = "Strip the x-anthropic-billing-header: a=b; line."
    assert read(USER, system=text)[0] == ("system", text)


def test_system_messages_among_the_others_go_into_the_users_turn():
    note = {"role": "system", "content": "Note."}
    answer = {"role": "assistant", "content": "Hello"}
    assert read(USER, answer, note, {"role": "user", "content": "Go"}) == [
        ("user", "Hi"),
        ("assistant", "Hello"),
        ("user", "Note.\n\nGo"),
    ]
    # Before any other message they belong to the system prompt.
    assert read(note, USER, system="Be brief.")[0] == ("system", "Be brief.\n\nNote.")
    # At the end, and before the assistant, they follow the user's text.
    assert read(USER, note) == [("user", "Hi\n\nNote.")]
    assert read(USER, note, answer)[0] == ("user", "Hi\n\nNote.")
    assert read(USER, answer, note)[-1] == ("user", "Note.")


def test_a_system_message_after_a_tools_result_joins_it():
    calls = {"role": "assistant", "content": [CALL]}
    note = {"role": "system", "content": "3 tokens left."}
    assert read(USER, calls, result("file"), note)[-1] == (
        "tool",
        "file\n\n3 tokens left.",
    )
    # Between a call and its result it must not part them.
    found = read(USER, calls, note, result("file"))
    assert found[2:] == [("tool", "file\n\n3 tokens left.")]


def test_tool_results_come_before_the_users_text():
    calls = {"role": "assistant", "content": [CALL]}
    turn = result("file")
    turn["content"].insert(0, {"type": "text", "text": "And now?"})
    found, _ = read_conversation(None, [USER, calls, turn])
    assert found[1]["tool_calls"] == [
        {
            "id": "t1",
            "type": "function",
            "function": {"name": "read", "arguments": {"path": "a"}},
        }
    ]
    assert found[2:] == (
        {"role": "tool", "content": "file", "tool_call_id": "t1", "name": "read"},
        {"role": "user", "content": "And now?"},
    )


def test_tool_results_of_every_form():
    calls = {"role": "assistant", "content": [CALL]}

    def text(content, **more):
        return read(USER, calls, result(content, **more))[-1][1]

    assert text(None) == "" and text("a") == "a"
    assert text([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]) == (
        "a\n\nb"
    )
    note = "[Content of type 'image' was left out: this server reads text only.]"
    assert text([{"type": "text", "text": "a"}, IMAGE]) == f"a\n\n{note}"
    assert text("no such file", is_error=True) == "Error: no such file"
    assert text("Error: no", is_error=True) == "Error: no"
    assert text("no", is_error=False) == "no"
    document = {"type": "document", "source": {"type": "text", "data": "body"}}
    assert text([document]) == "body"
    assert "'document'" in text([{"type": "document", "source": {"type": "base64"}}])
    assert "grep" in text([{"type": "tool_reference", "tool_name": "grep"}])
    found = {"type": "search_result", "title": "T", "source": "S", "content": []}
    assert text([found]) == "T\nS"


def test_documents_and_search_results_are_text():
    source = {"type": "content", "content": [{"type": "text", "text": "body"}]}
    document = {"type": "document", "title": "T", "source": source}
    hit = {"type": "search_result", "title": "T", "source": "S", "content": []}
    hit["content"] = [{"type": "text", "text": "found"}]
    assert read({"role": "user", "content": [document, hit]}) == [
        ("user", "T\n\nbody\n\nT\nS\n\nfound")
    ]


def test_thinking_comes_back_with_any_signature():
    def reasoning(*blocks):
        messages = [USER, {"role": "assistant", "content": [*blocks]}]
        return read_conversation(None, messages)[0][1].get("reasoning_content")

    thinking = {"type": "thinking", "thinking": "Hm.", "signature": "foreign"}
    assert reasoning(thinking) == "Hm."
    assert reasoning(thinking, {**thinking, "thinking": "So."}) == "Hm.\n\nSo."
    # Thinking that was not displayed is in our own signature.
    hidden = {**thinking, "thinking": "", "signature": pack_reasoning("Hidden.")}
    assert reasoning(hidden) == "Hidden."
    assert reasoning({**hidden, "signature": "foreign"}) is None
    redacted = {"type": "redacted_thinking", "data": "xx"}
    assert reasoning(redacted) is None
    turn = {"role": "assistant", "content": [redacted]}
    assert read_conversation(None, [USER, turn])[1] == ()


def test_messages_of_a_role_in_a_row_become_one():
    first = {"role": "assistant", "content": [{"type": "text", "text": "A"}, CALL]}
    second = {"role": "assistant", "content": [{**CALL, "id": "t2"}]}
    found, _ = read_conversation(None, [USER, USER, first, second])
    assert [message["role"] for message in found] == ["user", "assistant"]
    assert found[0]["content"] == "Hi\n\nHi" and found[1]["content"] == "A"
    assert [call["id"] for call in found[1]["tool_calls"]] == ["t1", "t2"]


def test_blocks_of_server_tools_are_ignored_with_one_warning_each():
    use = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}
    found = {"type": "web_search_tool_result", "tool_use_id": "s", "content": []}
    text = {"type": "text", "text": "A"}
    turn = {"role": "assistant", "content": [use, found, use, text]}
    messages, warnings = read_conversation(None, [USER, turn])
    assert messages[1] == {"role": "assistant", "content": "A"}
    assert [w.split("'")[1] for w in warnings] == [use["type"], found["type"]]
    turn = {"role": "user", "content": [use, found, text]}
    messages, again = read_conversation(None, [turn])
    assert messages == ({"role": "user", "content": "A"},) and again == warnings


@pytest.mark.parametrize(
    "messages, param, word",
    [
        ([], "messages", "empty"),
        ([{"role": "system", "content": "a"}], "messages", "user"),
        (["Hi"], "messages.0", "object"),
        ([{"role": "tool", "content": "a"}], "messages.0.role", '"tool"'),
        ([{"role": "user"}], "messages.0.content", "text or a list"),
        ([{"role": "user", "content": 3}], "messages.0.content", "text or a list"),
        ([{"role": "user", "content": ["a"]}], "messages.0.content.0", "type"),
        ([{"role": "user", "content": [IMAGE]}], "messages.0.content.0", "'image'"),
        (
            [{"role": "user", "content": [{"type": "text"}]}],
            "messages.0.content.0.text",
            "text",
        ),
        (
            [{"role": "user", "content": [{"type": "tool_result"}]}],
            "messages.0.content.0.tool_use_id",
            "text",
        ),
        (
            [{"role": "assistant", "content": [{"type": "tool_use", "id": "a"}]}],
            "messages.0.content.0",
            "name",
        ),
    ],
)
def test_messages_that_cannot_be_used(messages, param, word):
    with pytest.raises(RequestError, match=word) as caught:
        read_conversation(None, messages)
    assert caught.value.param == param and caught.value.status == 400


def test_a_system_prompt_must_be_text():
    for system in (3, ["a"], [IMAGE]):
        with pytest.raises(RequestError) as caught:
            read_conversation(system, [USER])
        assert caught.value.param.startswith("system")
