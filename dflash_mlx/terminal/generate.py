"""`generate`: one prompt, its answer on stdout, the summary on stderr."""

from __future__ import annotations

import json
import sys

from ..chat_template import apply_template
from ..engine import GenerationResponse, summary
from ..errors import OptionError, PromptError
from ..prompt_cache import PromptCache
from .ask import Ask, note


def read_prompt(argument: str | None, option: str | None) -> str:
    """The prompt from the argument, --prompt, or stdin.

    `-` is replaced by stdin; without any, piped input is the prompt.
    """
    if argument is not None and option is not None:
        raise OptionError(
            "The prompt is given twice.", "Drop the argument or --prompt."
        )
    given = argument if argument is not None else option
    if given is None and sys.stdin.isatty():
        raise PromptError("There is no prompt.", 'Try: dflash-mlx generate "Hello!"')
    if given in (None, "-"):
        text = sys.stdin.read()
    else:
        text = given.replace("\\n", "\n").replace("\\t", "\t")
    if not text.strip():
        raise PromptError("The prompt is empty.", "Write something to answer.")
    return utf8(text)


def utf8(text: str) -> str:
    """`text`, unless it came from bytes that are no UTF-8.

    Raises:
        PromptError: Then.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PromptError(
            "The prompt is not valid UTF-8.", "Convert it, for example with iconv."
        ) from None
    return text


def run(
    ask: Ask,
    prompt: str,
    *,
    prefill_response: str | None = None,
    template: bool = True,
    as_json: bool = False,
    verbose: bool = True,
) -> None:
    """Answer a prompt on stdout.

    Args:
        ask: The options.
        prompt: The user's text.
        prefill_response: How the answer begins.
        template: Wrap the prompt in the model's chat template.
        as_json: Print one JSON object instead of streaming text.
        verbose: Print the summary on stderr.
    """
    template_options = ask.template()
    pair, tokenizer = ask.open()
    ids: str | list[int] = prompt
    if template and tokenizer.has_chat_template:
        messages = [{"role": "user", "content": prompt}]
        if ask.system_prompt is not None:
            messages.insert(0, {"role": "system", "content": ask.system_prompt})
        if prefill_response is not None:
            messages.append({"role": "assistant", "content": prefill_response})
        ids = apply_template(
            tokenizer, messages, go_on=prefill_response is not None, **template_options
        )
    text, last = "", None
    try:
        cache = PromptCache(pair, ask.max_kv_size)
        for last in ask.stream(pair, tokenizer, ids, cache):
            text += last.text
            if not as_json:
                print(last.text, end="", flush=True)
    except KeyboardInterrupt:
        finish(text, last, as_json, verbose, interrupted=True)
        raise
    finish(text, last, as_json, verbose)


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
