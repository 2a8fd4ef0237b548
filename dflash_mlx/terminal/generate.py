"""`generate`: one prompt, its answer on stdout, the summary on stderr."""

from __future__ import annotations

import json
import os
from pathlib import Path

from mlx_lm.tokenizer_utils import TokenizerWrapper

from ..cache.file import load as load_cache
from ..cache.file import save as save_cache
from ..cache.prompt_cache import PromptCache, common_prefix
from ..engine import GenerationResponse, encode, summary
from ..errors import BrokenFileError, MissingFilesError, OptionError
from ..pair import Pair
from ..text.chat_template import apply_template, marks
from .answer_options import PromptOptions, ThinkingOptions
from .answer_request import AnswerRequest, note
from .chat.aside import set_aside
from .screen import progress
from .thinking import Thinking, warnings


def run(
    ask: AnswerRequest,
    prompt: str,
    how: PromptOptions,
    thinking: ThinkingOptions,
    *,
    as_json: bool = False,
    verbose: bool = True,
) -> None:
    """Answer a prompt on stdout.

    Args:
        ask: The options.
        prompt: The user's text.
        how: What becomes of the prompt.
        thinking: Whether the model reasons first.
        as_json: Print one JSON object instead of streaming text.
        verbose: Print the summary on stderr.
    """
    ask.template()
    check_cache_file(how.prompt_cache_file)
    if how.ignore_chat_template and (idle := for_a_template(ask, how, thinking)):
        raise OptionError(
            f"--ignore-chat-template and {idle[0]} exclude each other.", "Drop one."
        )
    shown = progress.wanted(verbose, as_json)
    pair, tokenizer = ask.open(shown)
    if not tokenizer.has_chat_template and (idle := for_a_template(ask, how, thinking)):
        raise OptionError(
            f"This model has no chat template, which {idle[0]} is for.", "Leave it out."
        )
    for warning in warnings(thought(thinking), ask, pair, tokenizer):
        note(warning)
    cache = open_cache(how.prompt_cache_file, pair, ask.max_kv_size)
    ids = cache.reuse(*tokens_of(prompt, ask, how, thinking, tokenizer))
    text, last = "", None
    try:
        with progress.Prefill(shown) as reading:
            for last in ask.stream(pair, tokenizer, ids, cache, reading):
                text += last.text
                if not as_json:
                    print(last.text, end="", flush=True)
    except KeyboardInterrupt:
        finish(text, last, as_json, verbose, interrupted=True)
        raise
    finish(text, last, as_json, verbose)
    keep_cache(how.prompt_cache_file, cache)


def for_a_template(
    ask: AnswerRequest, how: PromptOptions, thinking: ThinkingOptions
) -> list[str]:
    """Options that were given and mean nothing without a chat template."""
    given = {
        "--system-prompt": ask.system_prompt,
        "--chat-template-config": ask.chat_template_config,
        "--prefill-response": how.prefill_response,
        "--reasoning-effort": thinking.reasoning_effort,
        "--thinking": None if thinking.thinking == "auto" else thinking.thinking,
    }
    return [name for name, value in given.items() if value is not None]


def tokens_of(
    prompt: str,
    ask: AnswerRequest,
    how: PromptOptions,
    thinking: ThinkingOptions,
    tokenizer: TokenizerWrapper,
) -> tuple[list[int], tuple[int, ...]]:
    """Token ids of a prompt, in the model's chat template unless told otherwise, and
    their marks."""
    ids, found = ids_of(prompt, ask, how, thinking, tokenizer), ()
    raw = how.ignore_chat_template or not tokenizer.has_chat_template
    if not raw and how.prefill_response is None:
        options = thought(thinking).template(tokenizer) | ask.template()
        found = marks(tokenizer, said(prompt, ask), **options)
    if how.prompt_cache_file is not None and (other := with_other_question(prompt)):
        others = ids_of(other, ask, how, thinking, tokenizer)
        found = (*found, common_prefix(ids, others))
    return ids, found


def ids_of(
    prompt: str,
    ask: AnswerRequest,
    how: PromptOptions,
    thinking: ThinkingOptions,
    tokenizer: TokenizerWrapper,
) -> list[int]:
    """Token ids of a prompt."""
    if how.ignore_chat_template or not tokenizer.has_chat_template:
        return encode(tokenizer, prompt)
    options = thought(thinking).template(tokenizer) | ask.template()
    prefill = how.prefill_response
    messages = said(prompt, ask, prefill)
    return apply_template(tokenizer, messages, go_on=prefill is not None, **options)


def said(
    prompt: str, ask: AnswerRequest, prefill: str | None = None
) -> list[dict[str, str]]:
    """The messages of a prompt."""
    messages = [{"role": "user", "content": prompt}]
    if ask.system_prompt is not None:
        messages.insert(0, {"role": "system", "content": ask.system_prompt})
    if prefill is not None:
        messages.append({"role": "assistant", "content": prefill})
    return messages


def with_other_question(prompt: str) -> str:
    """The prompt with another last paragraph, as the next question about the same text
    would have it; empty where there is one paragraph only."""
    text, gap, question = prompt.rpartition("\n\n")
    return text + gap + ("B" if question.startswith("A") else "A") if text else ""


def thought(asked: ThinkingOptions) -> Thinking:
    """--thinking and --reasoning-effort."""
    return Thinking(asked.thinking, asked.reasoning_effort)


def check_cache_file(file: Path | None) -> None:
    """Raise MissingFilesError where --prompt-cache-file could not be written: before
    the answer that it is to hold."""
    if file is None:
        return
    try:
        if not file.parent.is_dir():
            raise MissingFilesError(
                f"There is no folder {file.parent}.", "Make it first."
            )
        if not file.exists() and not os.access(file.parent, os.W_OK):
            raise MissingFilesError(
                f"{file.parent} cannot be written to.", "Name a file elsewhere."
            )
    except OSError as error:
        raise MissingFilesError(
            f"{file} cannot be used: {error.strerror}.", "Name another file."
        ) from None


def open_cache(file: Path | None, pair: Pair, most: int | None) -> PromptCache:
    """The cache that a file holds, if there is one; else an empty one.

    Args:
        file: --prompt-cache-file; only read where it exists, as mlx-lm's.
        pair: What it must have been made with.
        most: --max-kv-size.

    Raises:
        DFlashError: It is another pair's, or no prompt cache. A damaged one is set
            aside, and said.
    """
    if file is None or not file.exists():
        return PromptCache(pair, most)
    try:
        return load_cache(file, pair, most)
    except BrokenFileError as error:
        try:
            note(f"{error.message} It is {set_aside(file)} now, and made anew.")
        except OSError as closed:
            note(f"{error.message} It stays: {closed.strerror}.")
        return PromptCache(pair, most)


def keep_cache(file: Path | None, cache: PromptCache) -> None:
    """Write the file of --prompt-cache-file unless it is there."""
    if file is not None and not file.exists():
        save_cache(cache, file)


def finish(
    text: str,
    last: GenerationResponse | None,
    as_json: bool,
    verbose: bool,
    interrupted: bool = False,
) -> None:
    """Close an answer: the JSON object, or a line end and the summary."""
    if last is None:
        return
    if as_json:
        reason = "interrupted" if interrupted else last.finish_reason
        print(json.dumps(report(text, last, reason)))
        return
    print(flush=True)
    if verbose:
        for line in summary(last):
            note(line)


def report(text: str, last: GenerationResponse, reason: str | None) -> dict:
    """An answer for machines; these names are stable."""
    return {
        "text": text,
        "finish_reason": reason,
        "prompt_tokens": last.prompt_tokens,
        "prompt_tps": last.prompt_tps,
        "generation_tokens": last.generation_tokens,
        "generation_tps": last.generation_tps,
        "peak_memory": last.peak_memory,
        **last.stats.as_dict(),
    }
