"""The format of a model is found by its tokenizer, and reasoning is split off it."""

import re

import pytest
from mlx_lm.tokenizer_utils import TokenizerWrapper
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from dflash_mlx import load
from dflash_mlx.text.detokenizer import Detokenizer
from dflash_mlx.text.reasoning import make_splitter
from dflash_mlx.text.tool_calls import find_format, formats, make_parser
from tests.equipment.tool_samples import PARIS, TIME, TOOLS, result
from tests.equipment.tool_writers import (
    CHANNEL,
    PLAIN_CHANNEL,
    ROLE,
    gemma,
    harmony,
    hermes,
    kimi,
    kimi_k3,
    muse,
    numbered,
    qwen,
)

TOOL_LOOP = "{% for tool in tools %}{{ tool | tojson }}{% endfor %}"
THINK = "<think>{{ reasoning }}</think>"
HARMONY_TOKENS = ["<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>"]
HARMONY_TOKENS += ["<|call|>", "<|return|>"]
# What templates of published models say of calls: name -> (format, part, tokens).
TEMPLATES = {
    "Qwen3": (
        formats.HERMES,
        '<tool_call>\\n{"name": "\' + tool_call.name + \'", "arguments": ',
        ["<tool_call>", "</tool_call>", "<think>", "</think>"],
    ),
    "Qwen3-Coder, Nemotron 3": (
        formats.QWEN,
        "'\\n<tool_call>\\n<function=' + tool_call.name + '>\\n<parameter='",
        ["<tool_call>", "</tool_call>"],
    ),
    "gpt-oss": (
        formats.HARMONY,
        "<|start|>assistant to=functions.{{ name }}<|channel|>commentary<|message|>",
        HARMONY_TOKENS,
    ),
    "Llama 3.1": (
        formats.LLAMA,
        '<|python_tag|> {"name": "{{ name }}", "parameters": {{ arguments }}}',
        ["<|python_tag|>", "<|eom_id|>", "<|eot_id|>"],
    ),
    "Llama 3.2": (
        formats.LLAMA,
        '{"name": function name, "parameters": dictionary of argument name}',
        ["<|python_tag|>", "<|eom_id|>", "<|eot_id|>"],
    ),
    "Gemma 4": (
        formats.GEMMA_4,
        "'<|tool_call>call:' + function['name'] + '{' ... '}<tool_call|>'",
        ["<|tool_call>", "<tool_call|>", "<|channel>", "<channel|>"],
    ),
    "FunctionGemma": (formats.GEMMA_3, "<start_function_call>call:", []),
    "Kimi K2": (
        formats.KIMI_K2,
        "<|tool_calls_section_begin|><|tool_call_begin|>{{ id }}",
        ["<|tool_calls_section_begin|>", "<|tool_call_begin|>"],
    ),
    "Kimi K2, the first one": (
        formats.KIMI_K2,
        "",
        ["<|tool_calls_section_begin|>", "<|tool_call_begin|>"],
    ),
    "Kimi K3": (
        formats.KIMI_K3,
        "",
        ["<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>"],
    ),
    "GLM 4.7": (
        formats.GLM,
        "'<tool_call>' + tc.name <arg_key>{{ k }}</arg_key><arg_value>",
        ["<tool_call>", "</tool_call>", "<arg_key>", "<think>", "</think>"],
    ),
    "MiniMax M2": (
        formats.MINIMAX,
        '<minimax:tool_call><invoke name="tool-name-1">\n<parameter name="',
        [],
    ),
    "MiniCPM5": (formats.MINICPM, '<function name="f"><param name="p">', []),
    "Muse": (formats.MUSE, '<atem:function_calls>\n<atem:invoke name="', []),
    "LongCat": (formats.LONGCAT, "<longcat_tool_call>{{ name }}", []),
    "LFM2": (formats.LFM2, "<|tool_list_start|>", ["<|tool_call_start|>"]),
    "LFM2.5": (formats.LFM2, '"<|tool_call_start|>[" + name', ["<|tool_call_start|>"]),
    "LFM2.5, converted": (
        formats.LFM2,
        "",
        ["<|tool_call_start|>", "<|tool_call_end|>"],
    ),
    "Mistral": (formats.MISTRAL, '"[TOOL_CALLS] ["', ["[TOOL_CALLS]"]),
    "DeepSeek V3.1": (
        formats.DEEPSEEK_V3,
        "'<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>'+ tool",
        ["<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"],
    ),
    "DeepSeek V3.2": (formats.DSML, '<｜DSML｜invoke name="$FUNCTION_NAME">', []),
    "Hermes on Llama": (
        formats.HERMES,
        "<tool_call>\n{'name': tool_call.name}",
        ["<|python_tag|>"],
    ),
}


def make_tokenizer(template, tokens=(), **options):
    """mlx-lm's wrapper of a tokenizer of single characters with special tokens."""
    letters = ["\0", "\n", *map(chr, range(32, 127))]
    letters = {letter: i for i, letter in enumerate(letters)}
    inner = Tokenizer(models.WordLevel(letters, unk_token="\0"))
    inner.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)
    tokenizer.add_tokens([AddedToken(token, special=True) for token in tokens])
    tokenizer.chat_template = template
    return TokenizerWrapper(tokenizer, **options)


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_format_of_a_template(name):
    format, part, tokens = TEMPLATES[name]
    assert find_format(make_tokenizer(TOOL_LOOP + part, tokens)) is format
    assert find_format(make_tokenizer("{{ messages }}", tokens)) is None


def test_other_tokenizers():
    assert find_format(make_tokenizer(TOOL_LOOP)) is None
    named = {"default": "{{ messages }}", "tool_use": TOOL_LOOP + "<tool_call>"}
    assert find_format(make_tokenizer(named)) is formats.HERMES
    # A template that is a program: mlx-lm knows the marker, or the vocabulary has it.
    marked = {"tool_call_start": "<tool_call>", "tool_call_end": "</tool_call>"}
    found = find_format(make_tokenizer(None, **marked))
    assert "<tool_call>" in found.opening
    assert find_format(make_tokenizer(None, HARMONY_TOKENS)) is formats.HARMONY
    assert find_format(make_tokenizer(None)) is None


def test_the_embedded_pair_knows_no_tools():
    assert find_format(load("tiny")[1]) is None


def test_the_parser_finds_the_format():
    tokenizer = make_tokenizer(TOOL_LOOP + "<tool_call>")
    assert make_parser(tokenizer, TOOLS).format is formats.HERMES
    assert make_parser(tokenizer, TOOLS, None).format is None
    assert make_parser(tokenizer, TOOLS, formats.QWEN).format is formats.QWEN


def ids_of(tokenizer, text):
    """Tokens of a text: special ones and single characters."""
    vocabulary = tokenizer.get_vocab()
    special = [re.escape(word) for word in vocabulary if len(word) > 1]
    words = re.findall("|".join([*special, "."]), text, re.DOTALL)
    return [vocabulary[word] for word in words]


def answer(tokenizer, prompt, text, eos=()):
    """Decode, split and parse an answer, token by token, as the server does.

    Returns:
        The reasoning, and the parser's result.
    """
    prompt, tokens = ids_of(tokenizer, prompt), ids_of(tokenizer, text)
    detokenizer = Detokenizer(tokenizer, prompt)
    splitter, parser = make_splitter(tokenizer, prompt), make_parser(tokenizer, TOOLS)
    reasoning, events = "", []

    def take(parts):
        nonlocal reasoning
        for kind, piece in parts:
            if kind == "reasoning":
                reasoning += piece
            else:
                events.extend(parser.push(piece))

    end = tokenizer.get_vocab()[eos] if eos else None
    for token in tokens:
        if token == end:
            break
        detokenizer.add_token(token)
        take(splitter.push(detokenizer.last_segment))
    detokenizer.finalize()
    take(splitter.push(detokenizer.last_segment) + splitter.close())
    return reasoning, result(events + parser.close(), parser.warnings)


ASCII = ("", "write-file", {"path": "/tmp/x", "content": 'a\n"b" {1}', "count": 5})
ANALYSIS = "<|channel|>analysis<|message|>I need it.<|end|><|start|>assistant"
FINAL = "<|channel|>final<|message|>Done."


@pytest.mark.parametrize("header", [CHANNEL, PLAIN_CHANNEL, ROLE])
@pytest.mark.parametrize("before", ["", ANALYSIS])
@pytest.mark.parametrize("eos", ["", "<|call|>"])
def test_harmonys_calls(header, before, eos):
    """All forms of a header, with the closing token in the text or ending it."""
    tokenizer = make_tokenizer(TEMPLATES["gpt-oss"][1] + TOOL_LOOP, HARMONY_TOKENS)
    text = before + harmony(ASCII[1], ASCII[2], header)
    reasoning, found = answer(tokenizer, "<|start|>assistant", text, eos)
    assert reasoning == ("I need it." if before else "")
    assert found[:4] == ([ASCII], "", [], [])


def test_harmonys_messages_around_calls():
    tokenizer = make_tokenizer(TEMPLATES["gpt-oss"][1] + TOOL_LOOP, HARMONY_TOKENS)
    text = (
        f"{ANALYSIS}<|channel|>commentary<|message|>Let me look.<|end|>"
        f"<|start|>assistant{harmony(ASCII[1], ASCII[2], CHANNEL)}"
        f"<|start|>assistant{harmony('get_time', {}, ROLE)}"
        f"<|start|>assistant{ANALYSIS}{FINAL}<|return|>"
    )
    reasoning, found = answer(tokenizer, "<|start|>assistant", text, "<|return|>")
    assert reasoning == "I need it." * 2
    assert found[:3] == ([ASCII, TIME], "Let me look.Done.", [])


def test_harmonys_call_in_the_analysis_channel():
    tokenizer = make_tokenizer(TEMPLATES["gpt-oss"][1] + TOOL_LOOP, HARMONY_TOKENS)
    for text in (
        "<|channel|>analysis to=get_time code<|message|>{}<|call|>",
        " to=functions.get_time<|channel|>analysis<|message|>{}<|call|>",
    ):
        reasoning, found = answer(tokenizer, "<|start|>assistant", text, "<|call|>")
        assert (reasoning, found.calls) == ("", [TIME])


def test_a_header_that_names_the_user_is_dropped():
    tokenizer = make_tokenizer(TEMPLATES["gpt-oss"][1] + TOOL_LOOP, HARMONY_TOKENS)
    text = "<|channel|>final to=user<|message|>Hi.<|return|>"
    _, found = answer(tokenizer, "<|start|>assistant", text, "<|return|>")
    assert (found.text, found.calls) == ("Hi.", [])


def test_a_header_that_is_cut_is_delivered():
    tokenizer = make_tokenizer(TEMPLATES["gpt-oss"][1] + TOOL_LOOP, HARMONY_TOKENS)
    cut = "<|channel|>commentary to=functions.get_ti"
    text = f"{ANALYSIS}{cut}"
    reasoning, found = answer(tokenizer, "<|start|>assistant", text)
    assert reasoning == "I need it."
    assert (
        found.text + "".join(e.raw for e in found.broken) == "<|start|>assistant" + cut
    )


@pytest.mark.parametrize(
    "name, text, calls",
    [
        ("Qwen3", hermes(PARIS, TIME), [PARIS, TIME]),
        ("Qwen3-Coder, Nemotron 3", qwen(PARIS, TIME), [PARIS, TIME]),
        ("Kimi K2", kimi(*numbered(PARIS, TIME)), numbered(PARIS, TIME)),
    ],
)
def test_a_call_opened_inside_the_reasoning(name, text, calls):
    _, part, tokens = TEMPLATES[name]
    tokens = sorted({*tokens, "<think>", "</think>"})
    tokenizer = make_tokenizer(TOOL_LOOP + part + THINK, tokens)
    reasoning, found = answer(tokenizer, "<think>\n", f"I look it up.\n{text}")
    assert (reasoning, found[:3]) == ("I look it up.\n", (calls, "", []))
    reasoning, found = answer(tokenizer, "<think>\n", f"I look.</think>\n\n{text}")
    assert (reasoning, found[:3]) == ("I look.", (calls, "", []))


def test_a_marker_that_reasoning_mentions():
    _, part, tokens = TEMPLATES["Qwen3"]
    tokenizer = make_tokenizer(TOOL_LOOP + part + THINK, tokens)
    thought = "I could write <tool_call> here.\n"
    reasoning, found = answer(
        tokenizer, "<think>\n", f"{thought}</think>{hermes(TIME)}"
    )
    assert (reasoning, found.calls) == (thought, [TIME])


def test_calls_in_reasoning_of_other_families_stay_there():
    _, part, tokens = TEMPLATES["Gemma 4"]
    tokenizer = make_tokenizer(TOOL_LOOP + part, tokens)
    text = f"<|channel>thought\nI think {gemma(TIME)}<channel|>{gemma(TIME)}"
    reasoning, found = answer(tokenizer, "", text)
    assert reasoning == f"I think {gemma(TIME)}"
    assert found[:3] == ([TIME], "", [])


def test_structural_markers_leave_calls_alone():
    """Kimi K3's markers around an answer share their tokens with those of calls."""
    tokenizer = make_tokenizer(TOOL_LOOP, TEMPLATES["Kimi K3"][2])
    text = (
        "<|open|>think<|sep|>hm<|close|>think<|sep|><|open|>response<|sep|>Look."
        f"<|close|>response<|sep|>{kimi_k3(ASCII)}<|close|>message<|sep|>"
    )
    reasoning, found = answer(tokenizer, "", text)
    assert (reasoning, found[:3]) == ("hm", ([ASCII], "Look.", []))


def test_response_formats_leave_calls_alone():
    """Muse's headers are dropped, its calls are not."""
    from mlx_lm.chat_templates.muse_spark import RESPONSE_FORMAT

    tokenizer = make_tokenizer(
        TOOL_LOOP + TEMPLATES["Muse"][1],
        ["<|message|>", "<|eom|>", "<|eot|>", "<|start|>"],
        response_format=RESPONSE_FORMAT,
    )
    text = (
        "to=self<|message|>hm<|eom|><|start|>assistant to=functions<|message|>"
        f"{muse(ASCII, TIME)}<|eom|><|start|>assistant to=user<|message|>Done.<|eot|>"
    )
    reasoning, found = answer(tokenizer, "", text)
    assert (reasoning, found[:3]) == ("hm", ([ASCII, TIME], "Done.", []))


def test_llamas_end_of_message():
    _, part, tokens = TEMPLATES["Llama 3.1"]
    tokenizer = make_tokenizer(TOOL_LOOP + part, tokens)
    call = '<|python_tag|>{"name": "get_time", "parameters": {}}<|eom_id|>'
    for eos in ("<|eom_id|>", ""):
        assert answer(tokenizer, "", call, eos)[1][:3] == ([TIME], "", [])
