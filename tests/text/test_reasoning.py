"""Reasoning and answer are separated wherever the pieces of the text are cut."""

import copy
from types import SimpleNamespace

import pytest
from mlx_lm.tokenizer_utils import TokenizerWrapper

from dflash_mlx.text.grammar import Grammar
from dflash_mlx.text.reasoning import (
    HARMONY,
    LONGEST_HEADER,
    Edge,
    Markers,
    Splitter,
    behind_reasoning,
    find_markers,
    make_splitter,
    tag_markers,
)
from tests.equipment.grammars import encode, tiny_tokenizer

THINK = tag_markers("<think>", "</think>")
CHANNEL = tag_markers("<|channel>thought", "<channel|>")
XTML = tag_markers(
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
CALL_IN_REASONING = tag_markers("<think>", "</think>", calls=["<call>"])
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
        "<|start|>assistant<|channel|>commentary"
        " to=functions.f <|constrain|>json<|message|>{}",
    ),
    (
        HARMONY,
        None,
        " to=functions.f<|channel|>commentary json<|message|>{}<|call|>"
        "<|start|>assistant<|channel|>analysis<|message|>a<|start|>assistant"
        " to=functions.g<|channel|>analysis<|message|>{}<|end|><|start|>assistant"
        "<|channel|>final<|message|>b",
        "a",
        " to=functions.f<|channel|>commentary json<|message|>{}<|call|>"
        "<|start|>assistant to=functions.g<|channel|>analysis<|message|>{}b",
    ),
    (
        HARMONY,
        None,
        "<|channel|>final<|message|>a<|end|><|start|>assistant to=functions.f<|chan",
        "",
        "a<|start|>assistant to=functions.f<|chan",
    ),
    (HARMONY, None, "<|channel|>final to=user<|message|>a <|call|>", "", "a <|call|>"),
    (
        HARMONY,
        None,
        f"<|channel|>final<|message|>a<|start|>{'h' * LONGEST_HEADER}<|message|>b",
        "",
        f"a<|start|>{'h' * LONGEST_HEADER}<|message|>b",
    ),
    (CALL_IN_REASONING, None, "<think>a\n<call>b</think>", "a\n", "<call>b</think>"),
    (CALL_IN_REASONING, "reasoning", "a<cal</think>\nb<call>", "a<cal", "b<call>"),
    (HARMONY, None, "no header", "", "no header"),
    (HARMONY, None, "x" * (LONGEST_HEADER + 9), "", "x" * (LONGEST_HEADER + 9)),
    (CALLS, None, " to=self<|message|>a<|eom|> to=user<|message|>b", "a", "b"),
    (CALLS, None, "to=self<|message|>a<|eom|><calls>f", "a", "<calls>f"),
    (Markers(), None, "<think>\nraw\n", "", "<think>\nraw\n"),
]


def split(markers, state, pieces):
    """Push pieces through a Splitter; return the reasoning and the answer."""
    splitter = Splitter(markers, state)
    parts = [part for piece in pieces for part in splitter.push(piece)]
    parts += splitter.close()
    assert all(text for _, text in parts)
    texts = {"reasoning": "", "answer": ""}
    for kind, text in parts:
        texts[kind] += text
    return texts["reasoning"], texts["answer"]


@pytest.mark.parametrize("markers, state, text, reasoning, answer", SAMPLES)
def test_every_cut_gives_the_same(markers, state, text, reasoning, answer):
    wanted = (reasoning, answer)
    assert split(markers, state, [text]) == wanted
    assert split(markers, state, list(text)) == wanted
    for i in range(len(text) + 1):
        assert split(markers, state, [text[:i], text[i:]]) == wanted
    if len(text) < 80:
        for i in range(len(text)):
            for j in range(i, len(text)):
                pieces = [text[:i], text[i:j], text[j:]]
                assert split(markers, state, pieces) == wanted


def test_certain_text_is_returned_at_once():
    splitter = Splitter(THINK, "reasoning")
    assert splitter.push("abc <") == [("reasoning", "abc ")]
    assert splitter.push("b") == [("reasoning", "<b")]
    assert splitter.push("</think>x") == [("answer", "x")]
    assert splitter.push("<think") == [("answer", "<think")]


@pytest.mark.parametrize(
    "markers, prompt, continued, state",
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
def test_the_prompt_may_begin_the_answer(markers, prompt, continued, state):
    assert markers.state_after(prompt, continued) == state


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
        tool_call_start=None,
        decode=lambda ids: "".join(map(chr, ids)),
    )


def test_markers_of_families():
    assert find_markers(tokenizer(think=("<think>", "</think>"))) == THINK
    harmony = tokenizer(["<|channel|>", "<|message|>", "<|start|>"])
    assert find_markers(harmony) is HARMONY
    assert find_markers(tokenizer(["[THINK]", "[/THINK]"])) == tag_markers(
        "[THINK]", "[/THINK]"
    )
    assert find_markers(tokenizer(template="a <think> b </think>")) == THINK
    assert find_markers(tokenizer()) == Markers()


def test_markers_of_mlx_lms_response_formats():
    from mlx_lm.chat_templates.muse_spark import RESPONSE_FORMAT

    found = find_markers(tokenizer(transitions=RESPONSE_FORMAT["transitions"]))
    text = " to=self<|message|>hm<|eom|> to=user<|message|>Yes<|eot|>"
    assert split(found, None, list(text)) == ("hm", "Yes")


def test_a_splitter_starts_from_the_prompts_end():
    model = tokenizer(think=("<think>", "</think>"))
    ids = [ord(c) for c in "x" * 500 + "<think>\n"]
    assert make_splitter(model, ids).state == "reasoning"
    assert make_splitter(model).state == "start"


def test_the_longer_of_two_markers_at_one_place_counts():
    markers = Markers(
        {
            "answer": [Edge("<a", "answer"), Edge("<a>", "reasoning")],
            "reasoning": [Edge("</a", "answer"), Edge("</a>", "answer")],
        }
    )
    splitter = Splitter(markers, "answer")
    parts = splitter.push("x<a>y</a>z") + splitter.close()
    assert parts == [("answer", "x"), ("reasoning", "y"), ("answer", "z")]


def test_the_longest_header():
    for length, shown in ((LONGEST_HEADER, []), (LONGEST_HEADER + 1, ["answer"])):
        splitter = Splitter(HARMONY)
        assert [kind for kind, _ in splitter.push("h" * length)] == shown


def test_a_continued_answer_that_began_long_ago():
    model = tokenizer(think=("<think>", "</think>"))
    prompt = [ord(c) for c in "<think>" + "x" * 200]
    assert (
        make_splitter(model, prompt, continue_final_message=True).state == "reasoning"
    )


def test_structural_markers_are_dropped():
    model = tokenizer(think=("<think>", "</think>"))
    model.structural_markers = ("<|turn|>",)
    splitter = make_splitter(model)
    parts = splitter.push("<think>a</think>b<|turn|>c") + splitter.close()
    assert parts == [("reasoning", "a"), ("answer", "b"), ("answer", "c")]


def thinking_tokenizer():
    """The embedded pair's, with the tags of reasoning."""
    fast = copy.deepcopy(tiny_tokenizer()._tokenizer)
    fast.add_tokens(["<think>", "</think>"])
    return TokenizerWrapper(fast, eos_token_ids=[2])


@pytest.mark.parametrize(
    ("prompt", "answer", "legal"),
    [
        ("<|im_start|>assistant\n", "12", True),
        ("<|im_start|>assistant\n", "<think>so</think>12", True),
        ("<|im_start|>assistant\n", "<think>so</think>so", False),
        ("<|im_start|>assistant\n", "so</think>12", False),
        ("<|im_start|>assistant\n<think>", "so</think>12", True),
        ("<|im_start|>assistant\n<think>", "</think>12", True),
        ("<|im_start|>assistant\n<think>", "so</think>so", False),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", "12", True),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", "<think>", False),
    ],
)
def test_a_grammar_begins_behind_the_reasoning(prompt, answer, legal):
    model = thinking_tokenizer()
    grammar = Grammar.of_regex(model, "[0-9]{2}")
    ids = model.encode(prompt, add_special_tokens=False)
    grammar = behind_reasoning(grammar, model, ids)
    tokens = model.encode(answer, add_special_tokens=False)
    assert (grammar.start().walk(tokens, 600).legal == len(tokens)) == legal


def test_a_grammar_without_reasoning_is_left():
    model = tiny_tokenizer()
    grammar = Grammar.of_regex(model, "[0-9]{2}")
    assert behind_reasoning(grammar, model, [1, 5]) is grammar


def test_a_grammar_is_for_the_final_channel():
    fast = copy.deepcopy(tiny_tokenizer()._tokenizer)
    fast.add_tokens(["<|channel|>", "<|message|>", "<|start|>", "<|end|>"])
    model = TokenizerWrapper(fast, eos_token_ids=[2])
    grammar = Grammar.of_regex(model, "[0-9]{2}")
    grammar = behind_reasoning(grammar, model, [5])
    start = "<|channel|>analysis<|message|>so<|end|><|start|>assistant"
    for answer, legal in (("12", 2), ("so", 0)):
        text = start + "<|channel|>final<|message|>"
        before = model.encode(text, add_special_tokens=False)
        tokens = [*before, *encode(answer)]
        assert grammar.start().walk(tokens, 600).legal == len(before) + legal
