"""`chat`: a conversation whose history stays in the caches; q, r, h as in mlx-lm."""

from __future__ import annotations

from ..chat_template import apply_template, check_template
from ..engine import summary
from ..errors import DFlashError
from ..prompt_cache import PromptCache
from .ask import Ask, note
from .generate import utf8

HELP = "q quits, r forgets the conversation, h shows this; Ctrl-C stops an answer."


def run(ask: Ask, verbose: bool = True) -> None:
    """Talk until q or the end of input.

    Args:
        ask: The options.
        verbose: Print a summary after each answer, on stderr.
    """
    options = ask.template()
    pair, tokenizer = ask.open()
    check_template(tokenizer)
    cache = PromptCache(pair, ask.max_kv_size)
    opening = []
    if ask.system_prompt is not None:
        opening = [{"role": "system", "content": ask.system_prompt}]
    messages = list(opening)
    note(HELP)
    while True:
        try:
            said = input(">> ")
        except EOFError:
            return
        if said == "q":
            return
        if said == "h":
            note(HELP)
        elif said == "r":
            messages = list(opening)
            cache.reset()
            note("Forgotten.")
        elif said.strip():
            messages.append({"role": "user", "content": utf8(said)})
            answer = turn(ask, pair, tokenizer, messages, options, cache, verbose)
            if answer is None:
                messages.pop()
            else:
                messages.append({"role": "assistant", "content": answer})


def turn(ask, pair, tokenizer, messages, options, cache, verbose) -> str | None:
    """One answer: streamed, and returned as far as it came; None when refused."""
    text, last = "", None
    try:
        ids = apply_template(tokenizer, messages, **options)
        rest = cache.reuse(ids)
        for last in ask.stream(pair, tokenizer, rest, cache):
            text += last.text
            print(last.text, end="", flush=True)
    except KeyboardInterrupt:
        note("\n(stopped)")
    except DFlashError as error:
        note(f"{error} r starts a new conversation.")
        return None
    print(flush=True)
    if verbose and last is not None:
        note(summary(last)[1] + "; " + summary(last)[3])
    return text
