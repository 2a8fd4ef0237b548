"""The formats in which models write tool calls, and which one a model's is.

Owns the markers. How the text between them is read is in json_calls, named_calls,
tag_calls and brace_calls.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import grammars
from .brace_calls import Braces, Pythonic
from .brace_grammars import gemma
from .cursor import Steps
from .grammars import Rules
from .json_calls import read_hermes, read_llama
from .named_calls import CALL, DEEPSEEK, KIMI, MESSAGE, read_harmony, read_mistral
from .schema import Tool, read_tools
from .session import Session
from .tag_calls import Tags
from .values import FUNCTION_GEMMA, GEMMA

TOOL_CALL, TOOL_CALL_END = "<tool_call>", "</tool_call>"


@dataclass(frozen=True)
class ToolFormat:
    """How a family of models writes tool calls.

    Args:
        name: Of the format.
        opening: Texts that open a call, wherever they stand in the answer.
        closing: Texts up to which a broken call is skipped.
        read: Reads what follows an opening text.
        first: Texts that open a call only if the answer begins with them.
        in_reasoning: Texts that open a call inside the reasoning too, since models of
            this family do so without ending the reasoning first.
        write: Writes the grammar of calls; None if there is none. See grammars.py.
        triggers: Texts behind which an opened grammar begins.
        tokens: Markers that are one token in the vocabularies of published models.
    """

    name: str
    opening: tuple[str, ...]
    closing: tuple[str, ...]
    read: Callable[[Session, str], Steps[None]] = field(repr=False, compare=False)
    first: tuple[str, ...] = ()
    in_reasoning: tuple[str, ...] = ()
    write: Callable[[Rules, Sequence[Tool], bool, bool], str] | None = field(
        default=None, repr=False, compare=False
    )
    triggers: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()

    def grammar(
        self,
        tools: Sequence[Mapping[str, Any]],
        *,
        parallel: bool,
        opened: bool = False,
        special: Collection[str] | None = None,
    ) -> str | None:
        """The grammar of a call, in llguidance's variant of Lark.

        Args:
            tools: The tools that may be called, as in make_parser.
            parallel: Whether several calls may follow each other.
            opened: The grammar begins behind one of `triggers`, not at the beginning
                of the call.
            special: Those of `tokens` that are tokens of the vocabulary. None for all.

        Returns:
            The grammar; None if there is none for this format, or no tool.
        """
        found = list(read_tools(tools).values())
        if self.write is None or not found:
            return None
        rules = Rules(self.tokens if special is None else special)
        return rules.text(self.write(rules, found, parallel, opened))


QWEN_TAGS = Tags(
    block=TOOL_CALL,
    block_end=TOOL_CALL_END,
    call="<function=",
    call_end="</function>",
    key="<parameter=",
    value_end="</parameter>",
    trimmed=True,
    json=True,
)
GLM_TAGS = Tags(
    block=TOOL_CALL,
    call="",
    call_end=TOOL_CALL_END,
    key="<arg_key>",
    head_end="</arg_key>",
    value="<arg_value>",
    value_end="</arg_value>",
    json=True,
)
LONGCAT_TAGS = Tags(
    block="<longcat_tool_call>",
    call="",
    call_end="</longcat_tool_call>",
    key="<longcat_arg_key>",
    head_end="</longcat_arg_key>",
    value="<longcat_arg_value>",
    value_end="</longcat_arg_value>",
    json=True,
)
MINIMAX_TAGS = Tags(
    block="<minimax:tool_call>",
    block_end="</minimax:tool_call>",
    call="<invoke name=",
    call_end="</invoke>",
    key="<parameter name=",
    value_end="</parameter>",
)
MUSE_TAGS = Tags(
    block="<atem:function_calls>",
    block_end="</atem:function_calls>",
    call="<atem:invoke",
    call_end="</atem:invoke>",
    key="<atem:parameter",
    value_end="</atem:parameter>",
)
MINICPM_TAGS = Tags(
    call="<function name=",
    call_end="</function>",
    key="<param name=",
    value_end="</param>",
    cdata=True,
)
DSML_TAGS = Tags(
    block="<｜DSML｜function_calls>",
    block_end="</｜DSML｜function_calls>",
    call="<｜DSML｜invoke",
    call_end="</｜DSML｜invoke>",
    key="<｜DSML｜parameter",
    value_end="</｜DSML｜parameter>",
)
KIMI_K3_TAGS = Tags(
    block="<|open|>tools<|sep|>",
    block_end="<|close|>tools<|sep|>",
    call="<|open|>call",
    call_end="<|close|>call<|sep|>",
    head_end="<|sep|>",
    key="<|open|>argument",
    value_end="<|close|>argument<|sep|>",
)


def _tagged(name, tags, **options):
    closing = (tags.block_end or tags.call_end,)
    return ToolFormat(name, tags.opening, closing, tags.read, **options)


QWEN = _tagged(
    "qwen",
    QWEN_TAGS,
    in_reasoning=("<tool_call>\n<function=",),
    write=grammars.qwen,
    triggers=(TOOL_CALL,),
    tokens=(TOOL_CALL, TOOL_CALL_END),
)
GLM = _tagged("glm", GLM_TAGS)
LONGCAT = _tagged("longcat", LONGCAT_TAGS)
MINIMAX = _tagged("minimax", MINIMAX_TAGS)
MUSE = _tagged("muse", MUSE_TAGS)
MINICPM = _tagged("minicpm", MINICPM_TAGS)
DSML = _tagged("dsml", DSML_TAGS)
KIMI_K3 = _tagged("kimi-k3", KIMI_K3_TAGS)
HERMES = ToolFormat(
    "hermes",
    (TOOL_CALL,),
    (TOOL_CALL_END,),
    read_hermes,
    in_reasoning=('<tool_call>\n{"name"',),
    write=grammars.hermes,
    triggers=(TOOL_CALL,),
    tokens=(TOOL_CALL, TOOL_CALL_END),
)
LLAMA = ToolFormat(
    "llama",
    ("<|python_tag|>",),
    (),
    read_llama,
    first=("{",),
    write=grammars.llama,
    triggers=("<|python_tag|>",),
)
HARMONY = ToolFormat(
    "harmony",
    ("<|channel|>", "<|start|>"),
    (CALL,),
    read_harmony,
    first=("to=",),
    write=grammars.harmony,
    triggers=(" to=functions.",),
    tokens=("<|start|>", "<|channel|>", "<|constrain|>", MESSAGE, CALL),
)
KIMI_K2 = ToolFormat(
    "kimi-k2",
    (KIMI.start, KIMI.call),
    (KIMI.call_end, KIMI.end),
    KIMI.read,
    in_reasoning=(KIMI.start,),
    write=grammars.kimi,
    triggers=(KIMI.start,),
    tokens=(KIMI.start, KIMI.end, KIMI.call, KIMI.call_end, KIMI.arguments),
)
DEEPSEEK_V3 = ToolFormat(
    "deepseek-v3",
    (DEEPSEEK.start, DEEPSEEK.call),
    (DEEPSEEK.call_end, DEEPSEEK.end),
    DEEPSEEK.read,
)
MISTRAL = ToolFormat("mistral", ("[TOOL_CALLS]",), (), read_mistral)
GEMMA_4 = ToolFormat(
    "gemma4",
    ("<|tool_call>",),
    ("<tool_call|>",),
    Braces("<tool_call|>", GEMMA).read,
    write=gemma,
    triggers=("<|tool_call>",),
    tokens=("<|tool_call>", "<tool_call|>", '<|"|>'),
)
GEMMA_3 = ToolFormat(
    "function-gemma",
    ("<start_function_call>",),
    ("<end_function_call>",),
    Braces("<end_function_call>", FUNCTION_GEMMA).read,
)
LFM2 = ToolFormat(
    "lfm2",
    ("<|tool_call_start|>",),
    ("<|tool_call_end|>",),
    Pythonic("<|tool_call_end|>").read,
)

# Texts of which a chat template has all, first match first. Some templates show two
# formats, so the order counts.
BY_TEMPLATE: tuple[tuple[ToolFormat, tuple[str, ...]], ...] = (
    (MINIMAX, ("<minimax:tool_call>",)),
    (MUSE, ("<atem:function_calls>",)),
    (GEMMA_4, ("<|tool_call>", "<tool_call|>")),
    (GEMMA_3, ("<start_function_call>",)),
    (LONGCAT, ("<longcat_tool_call>",)),
    (GLM, ("<arg_key>",)),
    (DSML, ("｜DSML｜",)),
    (DEEPSEEK_V3, (DEEPSEEK.start,)),
    (LFM2, ("<|tool_list_start|>",)),
    (LFM2, ("<|tool_call_start|>",)),
    (QWEN, ("<tool_call>", "<function=")),
    (KIMI_K2, (KIMI.start,)),
    (MINICPM, ('<function name="', '<param name="')),
    (MISTRAL, ("[TOOL_CALLS]",)),
    (HARMONY, ("<|channel|>", "<|message|>", "functions")),
    (HERMES, ("<tool_call>",)),
    (LLAMA, ("<|python_tag|>",)),
)
# Tokens of which a vocabulary has all, for templates that show no calls.
BY_VOCABULARY: tuple[tuple[ToolFormat, tuple[str, ...]], ...] = (
    (HARMONY, ("<|channel|>", "<|message|>", "<|call|>")),
    (KIMI_K3, ("<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>")),
    (KIMI_K2, (KIMI.start, KIMI.call)),
    (DEEPSEEK_V3, (DEEPSEEK.start, DEEPSEEK.call)),
    (LFM2, ("<|tool_call_start|>", "<|tool_call_end|>")),
    (GEMMA_4, ("<|tool_call>", "<tool_call|>")),
    (MISTRAL, ("[TOOL_CALLS]",)),
    (LLAMA, ("<|python_tag|>",)),
)


def find_format(tokenizer: Any) -> ToolFormat | None:
    """The format in which a tokenizer's model writes tool calls.

    Args:
        tokenizer: mlx-lm's TokenizerWrapper.

    Returns:
        The format; None if the chat template does not know tools, or shows none of the
        known formats.
    """
    template = template_text(tokenizer)
    if template is not None:
        if "tool" not in template:
            return None
        for format, words in BY_TEMPLATE:
            if all(word in template for word in words):
                return format
    marker = tokenizer.tool_call_start
    for format, _ in BY_TEMPLATE:
        if marker is not None and marker in format.opening:
            return format
    vocabulary = tokenizer.get_vocab()
    for format, words in BY_VOCABULARY:
        if all(word in vocabulary for word in words):
            return format
    return None


def template_text(tokenizer: Any) -> str | None:
    """The chat template, or all of several ones; None if it is a program or missing."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        return "\n".join(map(str, template.values()))
    return template if isinstance(template, str) else None
