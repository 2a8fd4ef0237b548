"""Reasoning and answer told apart, wherever the pieces are cut."""

from types import SimpleNamespace

import pytest

from dflash_mlx.text.reasoning import (
    HARMONY,
    LONGEST_HEADER,
    Edge,
    Markers,
    Splitter,
    markers,
    splitter,
    tags,
)

THINK = tags("<think>", "</think>")
CHANNEL = tags("<|channel>thought", "<channel|>")
XTML = tags(
    "<|open|>think<|sep|>",
    "<|close|>think<|sep|>",
    ["<|open|>response<|sep|>", "<|close|>response<|sep|>"],
)
CALLS = Markers(
    {
        "header": [
            Edge("to=self<|message|>", "reasoning"),
            Edge("to=user<|message|>", "answer"),
            Edge("<calls>", "answer", keep=True),
        ],
        "reasoning": [Edge("<|eom|>", "header")],
        "answer": [Edge("<|eom|>", "header")],
    },
    "header",
)
# (markers, state, text, reasoning, answer)
SAMPLES = [
    (THINK, None, "<think>\nwhy\n</think>\n\nBecause.", "why\n", "Because."),
    (THINK, "reasoning", "why</think>Because.", "why", "Because."),
    (THINK, "reasoning", "\nit never ends </thin", "it never ends </thin", ""),
    (THINK, None, "No reasoning.\n", "", "No reasoning.\n"),
    (THINK, None, "\n  indented", "", "\n  indented"),
    (THINK, None, "<think>\n\n</think>\n\n  x", "", "  x"),
    (THINK, None, "<thin", "", "<thin"),
    (THINK, None, " \n", "", " \n"),
    (
        THINK,
        None,
        "Write `<think>` and `</think>`: <think>a</think>",
        "",
        "Write `<think>` and `</think>`: <think>a</think>",
    ),
    (THINK, "reasoning", "a</think>b <think>c</think>", "a", "b <think>c</think>"),
    (THINK, "reasoning", "a < b </ c</think>é日本😀", "a < b </ c", "é日本😀"),
    (CHANNEL, None, "<|channel>thought\nhm<channel|>Yes.", "hm", "Yes."),
    (
        CHANNEL,
        None,
        "<|channel>thought\na<channel|><|channel>thought\nb<channel|>c",
        "ab",
        "c",
    ),
    (
        XTML,
        "reasoning",
        "a<|close|>think<|sep|><|open|>response<|sep|>b<|close|>response<|sep|>",
        "a",
        "b",
    ),
    (
        HARMONY,
        None,
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant"
        "<|channel|>final<|message|>Yes <|x",
        "hm",
        "Yes <|x",
    ),
    (
        HARMONY,
        None,
        "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary"
        " to=functions.f <|constrain|>json<|message|>{}<|end|><|start|>assistant",
        "a",
        "{}",
    ),
    (HARMONY, None, "no header", "", "no header"),
    (HARMONY, None, "x" * (LONGEST_HEADER + 9), "", "x" * (LONGEST_HEADER + 9)),
    (CALLS, None, " to=self<|message|>a<|eom|> to=user<|message|>b", "a", "b"),
    (CALLS, None, "to=self<|message|>a<|eom|><calls>f", "a", "<calls>f"),
    (Markers(), None, "<think>\nraw\n", "", "<think>\nraw\n"),
]


def split(marks, state, pieces):
    one = Splitter(marks, state)
    parts = [part for piece in pieces for part in one.push(piece)] + one.close()
    assert all(text for _, text in parts)
    told = {"reasoning": "", "answer": ""}
    for kind, text in parts:
        told[kind] += text
    return told["reasoning"], told["answer"]


@pytest.mark.parametrize("marks, state, text, reasoning, answer", SAMPLES)
def test_every_cut_gives_the_same(marks, state, text, reasoning, answer):
    wanted = (reasoning, answer)
    assert split(marks, state, [text]) == wanted
    assert split(marks, state, list(text)) == wanted
    for i in range(len(text) + 1):
        assert split(marks, state, [text[:i], text[i:]]) == wanted
    if len(text) < 80:
        for i in range(len(text)):
            for j in range(i, len(text)):
                pieces = [text[:i], text[i:j], text[j:]]
                assert split(marks, state, pieces) == wanted


def test_what_is_certain_is_given_at_once():
    one = Splitter(THINK, "reasoning")
    assert one.push("abc <") == [("reasoning", "abc ")]
    assert one.push("b") == [("reasoning", "<b")]
    assert one.push("</think>x") == [("answer", "x")]
    assert one.push("<think") == [("answer", "<think")]


@pytest.mark.parametrize(
    "marks, prompt, go_on, state",
    [
        (THINK, "<|im_start|>assistant\n<think>\n", False, "reasoning"),
        (THINK, "<|im_start|>assistant\n<think>\n\n</think>\n\n", False, "start"),
        (THINK, "what is <think>?<|im_end|>\n<|im_start|>assistant\n", False, "start"),
        (THINK, "assistant\n<think>\nOkay, so", True, "reasoning"),
        (THINK, "assistant\n<think>\na</think>b", True, "start"),
        (HARMONY, "hi<|end|><|start|>assistant", False, "header"),
        (HARMONY, "<|start|>assistant<|channel|>final<|message|>Su", True, "answer"),
        (HARMONY, "<|channel|>analysis<|message|>Hm", True, "reasoning"),
        (Markers(), "<think>", False, "answer"),
    ],
)
def test_the_prompt_may_have_begun_it(marks, prompt, go_on, state):
    assert marks.state_after(prompt, go_on) == state


def tokenizer(words=(), think=None, template=None, transitions=None):
    start, end = think or (None, None)
    return SimpleNamespace(
        get_vocab=lambda: dict.fromkeys(words, 0),
        has_thinking=think is not None,
        think_start=start,
        think_end=end,
        structural_markers=(),
        response_transitions=transitions or {},
        response_initial_state="header" if transitions else None,
        chat_template=template,
        decode=lambda ids: "".join(map(chr, ids)),
    )


def test_markers_of_families():
    assert markers(tokenizer(think=("<think>", "</think>"))) == THINK
    harmony = tokenizer(["<|channel|>", "<|message|>", "<|start|>"])
    assert markers(harmony) is HARMONY
    assert markers(tokenizer(["[THINK]", "[/THINK]"])) == tags("[THINK]", "[/THINK]")
    assert markers(tokenizer(template="a <think> b </think>")) == THINK
    assert markers(tokenizer()) == Markers()


def test_markers_of_mlx_lms_response_formats():
    from mlx_lm.chat_templates.muse_spark import RESPONSE_FORMAT

    found = markers(tokenizer(transitions=RESPONSE_FORMAT["transitions"]))
    text = " to=self<|message|>hm<|eom|> to=user<|message|>Yes<|eot|>"
    assert split(found, None, list(text)) == ("hm", "Yes")


def test_a_splitter_reads_the_prompts_end():
    one = tokenizer(think=("<think>", "</think>"))
    ids = [ord(c) for c in "x" * 500 + "<think>\n"]
    assert splitter(one, ids).state == "reasoning"
    assert splitter(one).state == "start"


def test_of_two_markers_at_one_place_the_longer_counts():
    marks = Markers(
        {
            "answer": [Edge("<a", "answer"), Edge("<a>", "reasoning")],
            "reasoning": [Edge("</a", "answer"), Edge("</a>", "answer")],
        }
    )
    split = Splitter(marks, "answer")
    told = split.push("x<a>y</a>z") + split.close()
    assert told == [("answer", "x"), ("reasoning", "y"), ("answer", "z")]


def test_a_header_may_have_its_full_length():
    for length, shown in ((LONGEST_HEADER, []), (LONGEST_HEADER + 1, ["answer"])):
        split = Splitter(HARMONY)
        assert [kind for kind, _ in split.push("h" * length)] == shown


def test_an_answer_begun_long_ago_is_still_reasoning():
    one = tokenizer(think=("<think>", "</think>"))
    prompt = [ord(c) for c in "<think>" + "x" * 200]
    assert splitter(one, prompt, go_on=True).state == "reasoning"


def test_structural_markers_are_no_text():
    one = tokenizer(think=("<think>", "</think>"))
    one.structural_markers = ("<|turn|>",)
    split = splitter(one)
    told = split.push("<think>a</think>b<|turn|>c") + split.close()
    assert told == [("reasoning", "a"), ("answer", "b"), ("answer", "c")]
