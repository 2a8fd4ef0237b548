"""A request to the token ids of its prompt, for one loaded model.

Owns what a request leaves to the model's tokenizer and template: tools, thinking,
markers for filling in, the context's length. Does not touch arrays.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from mlx_lm.tokenizer_utils import TokenizerWrapper

from ..errors import PromptError
from ..models.targets.base import Target
from ..text.chat_template import apply_template, marks
from ..text.fim import fill_prompt, find_fill_markers
from ..text.grammar import Grammar
from ..text.prompt import encode
from ..text.reasoning import behind_reasoning
from ..text.template_switches import (
    RESERVED,
    has_effort,
    switch_of,
    template_text,
    variables,
)
from ..text.tool_calls import ToolFormat, find_format
from ..text.tool_calls.formats import HARMONY
from .constraint import make_grammar
from .dialects.messages import fold_system_messages
from .errors import PromptTooLong, RequestError, from_user_error, unsupported
from .reasoning_store import ReasoningStore
from .schema import Request
from .settings import Defaults

# Words of effort that few templates know, and the nearest that most do.
NEAREST_EFFORT = {"minimal": "low", "xhigh": "high", "max": "high"}


@dataclass(frozen=True)
class Prepared:
    """A request, ready for decoding.

    Args:
        ids: The prompt.
        marks: Where later prompts may part from it; see PromptCache.reuse.
        continued: The prompt ends with the beginning of the answer.
        tools: The tools that the model was offered.
        format: How it writes their calls; None without tools.
        grammar: What the answer must match, or None.
        warnings: What was ignored, a sentence each.
    """

    ids: list[int]
    marks: tuple[int, ...] = ()
    continued: bool = False
    tools: tuple[dict[str, Any], ...] = ()
    format: ToolFormat | None = None
    grammar: Grammar | None = None
    warnings: tuple[str, ...] = ()


def prepare(
    request: Request,
    tokenizer: TokenizerWrapper,
    defaults: Defaults,
    context: int | None,
    reasonings: ReasoningStore,
    lock: AbstractContextManager[Any],
) -> Prepared:
    """Make a request's prompt.

    Args:
        request: The request.
        tokenizer: The model's.
        defaults: What the request does not say.
        context: Most tokens of prompt and answer, or None.
        reasonings: The reasoning of earlier answers, where messages lack it.
        lock: Held while the prompt is made. A grammar is compiled without it, which can
            take seconds.

    Raises:
        RequestError: The template rejects the messages, or the prompt is too long.
    """
    with lock:
        if request.text is not None:
            prepared = Prepared(completion_ids(request, tokenizer))
        else:
            messages = reasonings.restore(request.messages)
            prepared = _prepare_chat(request, messages, tokenizer, defaults, context)
    prepared = constrain(prepared, request, tokenizer)
    check_length(prepared.ids, context)
    return prepared


def check_length(ids: Sequence[int], context: int | None) -> None:
    """Raise RequestError if a prompt is empty, or does not fit the context."""
    if context is not None and len(ids) >= context:
        raise PromptTooLong(len(ids), context)
    if not ids:
        raise RequestError("The prompt is empty.", param="prompt")


def check_tokens(request: Request, target: Target) -> None:
    """Check the token ids in a request's fields.

    Args:
        request: The request.
        target: Its model.

    Raises:
        RequestError: The vocabulary has no such token.
    """
    named = {"logit_bias": request.sampling.get("logit_bias", ())}
    if isinstance(request.text, tuple):
        named["prompt"] = request.text
    for param, ids in named.items():
        try:
            target.check_ids(ids)
        except PromptError as error:
            message = error.message.replace("The prompt", param, 1)
            raise RequestError(message, param=param) from None


def completion_ids(request: Request, tokenizer: TokenizerWrapper) -> list[int]:
    """The prompt of a completion, with the suffix if it has one.

    Raises:
        RequestError: The model cannot fill in, or a token id is not in its vocabulary.
    """
    text = request.text
    if request.suffix:
        markers = find_fill_markers(tokenizer)
        if markers is None or not isinstance(text, str):
            why = "This model cannot fill in text: suffix"
            raise unsupported(why, "suffix")
        return fill_prompt(tokenizer, markers, text, request.suffix)
    return encode(tokenizer, text if isinstance(text, str) else list(text))


def _prepare_chat(request, messages, tokenizer, defaults, context):
    warnings: list[str] = []
    if defaults.system and all(each["role"] != "system" for each in messages):
        messages.insert(0, {"role": "system", "content": defaults.system})
    options, warned = template_options(request, tokenizer, defaults)
    warnings += warned
    tools, format = offered_tools(request, tokenizer)
    if tools:
        options["tools"] = shown_tools(tools, request.loaded_tools)
    elif request.tools and request.tool_choice.mode != "none":
        warnings.append("tools were ignored: this model's chat template has none.")
    continued = request.continue_last and messages[-1]["role"] == "assistant"
    if continued:
        options["continue_final_message"] = True
    try:
        ids, messages = render(tokenizer, messages, options)
        check_length(ids, context)  # the marks take as long again
        found = () if continued else marks(tokenizer, messages, **options)
    except PromptError as error:
        raise from_user_error(error, "messages") from None
    return Prepared(ids, tuple(found), continued, tools, format, None, tuple(warnings))


def constrain(
    prepared: Prepared, request: Request, tokenizer: TokenizerWrapper
) -> Prepared:
    """The prompt with the grammar of its answer, if the request asks for one.

    Raises:
        RequestError: The grammar cannot be had.
    """
    grammar = make_grammar(
        tokenizer,
        request.constraint,
        request.tool_choice,
        prepared.tools,
        prepared.format,
    )
    chat = request.text is None and not prepared.continued
    # Calls in harmony's form have the reasoning in their grammar.
    own = prepared.format is HARMONY and request.tool_choice.mode == "required"
    if grammar is not None and grammar.markers is None and chat and not own:
        grammar = behind_reasoning(grammar, tokenizer, prepared.ids)
    return replace(prepared, grammar=grammar)


def render(
    tokenizer: TokenizerWrapper, messages: list[dict[str, Any]], options: dict[str, Any]
) -> tuple[list[int], list[dict[str, Any]]]:
    """The token ids of messages, and the messages as they were rendered.

    Where the template rejects the messages, system messages are folded into the first
    one and into the users' messages.

    Raises:
        PromptError: The template rejects them in either form.
    """
    try:
        return apply_template(tokenizer, messages, **options), messages
    except PromptError:
        folded = fold_system_messages(messages)
        if folded == messages:
            raise
        return apply_template(tokenizer, folded, **options), folded


def offered_tools(
    request: Request, tokenizer: TokenizerWrapper
) -> tuple[tuple[dict[str, Any], ...], ToolFormat | None]:
    """The tools that the model is offered, and how it writes calls.

    Raises:
        RequestError: A call is required, but the model's template knows no tools.
    """
    choice = request.tool_choice
    if not request.tools or choice.mode == "none":
        return (), None
    format = find_format(tokenizer)
    if format is None:
        if choice.mode == "required":
            raise unsupported("This model calls no tools: tool_choice", "tool_choice")
        return (), None
    names = choice.names
    tools = [t for t in request.tools if not names or t["function"]["name"] in names]
    return tuple(tools), format


def shown_tools(
    tools: Sequence[dict[str, Any]], loaded: Collection[str]
) -> list[dict[str, Any]]:
    """The tools that the chat template defines: those that messages do not, or all.

    Args:
        tools: The tools that the model is offered.
        loaded: Names of those that messages define.
    """
    first = [tool for tool in tools if tool["function"]["name"] not in loaded]
    return first or list(tools)


def template_options(
    request: Request, tokenizer: TokenizerWrapper, defaults: Defaults
) -> tuple[dict[str, Any], list[str]]:
    """Variables for the chat template, and what was ignored, a sentence each."""
    options, warnings = dict(defaults.template_arguments), []
    text = template_text(tokenizer)
    known = None if text is None else variables(text) - {*RESERVED, "tools"}
    for name, value in request.template_arguments.items():
        foreign = known is not None and name not in known
        if name in RESERVED or name == "tools" or foreign:
            warnings.append(f"chat_template_kwargs.{name} was ignored.")
        else:
            options[name] = value
    thinking = defaults.thinking if request.thinking is None else request.thinking
    if thinking is not None and (switch := switch_of(tokenizer)):
        options.setdefault(switch, thinking)
    elif request.thinking is not None and not has_effort(tokenizer):
        warnings.append("Thinking cannot be switched: this model has no such setting.")
    effort = request.effort or defaults.effort
    if effort is not None and has_effort(tokenizer):
        options.setdefault("reasoning_effort", NEAREST_EFFORT.get(effort, effort))
    elif request.effort is not None:
        warnings.append("The effort was ignored: this model has no such setting.")
    return options, warnings
