"""`generate`: answer one prompt on stdout, with a summary on stderr.

Owns the prompt cache file and the JSON object; its names stay the same. Does not know
where the prompt comes from (streams.py) or how an answer is made (answer_request.py).
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_lm.tokenizer_utils import TokenizerWrapper

from ..cache.file import load as load_cache
from ..cache.file import save as save_cache
from ..cache.prompt_cache import PromptCache, common_prefix
from ..engine import summary
from ..errors import BrokenFileError, MissingFilesError, OptionError
from ..pair import Pair
from ..responses import GenerationResponse
from ..text.chat_template import apply_template, marks
from ..text.prompt import encode
from ..text.reasoning import behind_reasoning
from .answer_options import PromptOptions, ThinkingOptions
from .answer_request import AnswerRequest
from .grammar_options import GrammarOptions
from .options import check_exclusive
from .screen import progress
from .screen.status import DIM, print_message
from .streams import print_notice
from .thinking import Thinking, drafter_name, warnings

NO_GRAMMAR = GrammarOptions()
NO_TEMPLATE = (
    "This model has no chat template, so it continues the prompt as plain text. For "
    "answers, use an instruct model; --ignore-chat-template hides this note."
)


def run(
    request: AnswerRequest,
    prompt: str,
    prompt_options: PromptOptions,
    thinking_options: ThinkingOptions,
    grammar_options: GrammarOptions = NO_GRAMMAR,
    *,
    as_json: bool = False,
    verbose: bool = True,
) -> None:
    """Answer a prompt on stdout.

    Args:
        request: The options of the answer.
        prompt: The user's text.
        prompt_options: How the prompt becomes tokens.
        thinking_options: Whether the model reasons first.
        grammar_options: What the answer may look like, behind the reasoning.
        as_json: Print one JSON object instead of streaming text.
        verbose: Print the summary on stderr.
    """
    encoder = PromptEncoder(request, prompt_options, thinking_options)
    request.template_arguments()  # refuses what is not valid
    check_cache_file(prompt_options.prompt_cache_file)
    encoder.check_options()
    rules = grammar_options.read()
    for name in grammar_options.given():
        prefilled = prompt_options.prefill_response is not None
        check_exclusive("--prefill-response", name, prefilled)
    shown = progress.wanted(verbose, as_json)
    pair, tokenizer = request.load(shown)
    encoder.check_tokenizer(tokenizer)
    grammar = grammar_options.compile(rules, tokenizer)
    for warning in warnings(encoder.thinking, request, pair, tokenizer):
        print_notice(warning)
    cache = open_cache(prompt_options.prompt_cache_file, pair, request.max_kv_size)
    whole, found = encoder.encode(prompt, tokenizer)
    if notice := mismatch_notice(cache.text, whole):
        print_notice(notice)
    if grammar is not None:
        grammar = behind_reasoning(grammar, tokenizer, whole)
    ids = cache.reuse(whole, found)
    given, request = request, request.with_seed()
    ending = Ending(given, request, pair, as_json, verbose)
    text, last = "", None
    try:
        with progress.PrefillBar(shown) as prefill:
            for last in request.stream(pair, tokenizer, ids, cache, prefill, grammar):
                text += last.text
                if not as_json:
                    print(last.text, end="", flush=True)
    except KeyboardInterrupt:
        ending.finish(text, last, interrupted=True)
        raise
    ending.finish(text, last)
    save_new_cache(prompt_options.prompt_cache_file, cache)


class PromptEncoder:
    """Turns the text of a prompt into token ids, as the options say.

    Args:
        request, prompt_options, thinking_options: As in run.

    Attributes:
        thinking: --thinking and --reasoning-effort.
    """

    def __init__(
        self,
        request: AnswerRequest,
        prompt_options: PromptOptions,
        thinking_options: ThinkingOptions,
    ):
        self.request, self.options = request, prompt_options
        self.thinking = thinking_of(thinking_options)

    def check_options(self) -> None:
        """Raise OptionError if --ignore-chat-template makes another option useless."""
        for name in self._for_template():
            ignored = self.options.ignore_chat_template
            check_exclusive("--ignore-chat-template", name, ignored)

    def check_tokenizer(self, tokenizer: TokenizerWrapper) -> None:
        """Raise OptionError for an option that needs a chat template where the model
        has none."""
        if not tokenizer.has_chat_template and (names := self._for_template()):
            raise OptionError(
                f"{names[0]} needs a chat template, which this model does not have.",
                "Leave it out.",
            )
        if not (tokenizer.has_chat_template or self.options.ignore_chat_template):
            print_notice(NO_TEMPLATE)

    def _for_template(self) -> list[str]:
        """Names of the given options that have no effect without a chat template."""
        thinking = self.thinking
        given = {
            "--system-prompt": self.request.system_prompt,
            "--chat-template-config": self.request.chat_template_config,
            "--prefill-response": self.options.prefill_response,
            "--reasoning-effort": thinking.effort,
            "--thinking": None if thinking.mode == "auto" else thinking.mode,
        }
        return [name for name, value in given.items() if value is not None]

    def encode(
        self, prompt: str, tokenizer: TokenizerWrapper
    ) -> tuple[list[int], tuple[int, ...]]:
        """The token ids of a prompt, and its marks for PromptCache.reuse."""
        ids, found = self._ids(prompt, tokenizer), ()
        if not self._raw(tokenizer) and self.options.prefill_response is None:
            arguments = self._template_arguments(tokenizer)
            found = marks(tokenizer, self._messages(prompt), **arguments)
        other = with_other_question(prompt)
        if self.options.prompt_cache_file is not None and other:
            found = (*found, common_prefix(ids, self._ids(other, tokenizer)))
        return ids, found

    def _ids(self, prompt: str, tokenizer: TokenizerWrapper) -> list[int]:
        if self._raw(tokenizer):
            return encode(tokenizer, prompt)
        prefill, messages = self.options.prefill_response, self._messages(prompt)
        if prefill is not None:
            messages.append({"role": "assistant", "content": prefill})
        arguments = self._template_arguments(tokenizer)
        return apply_template(
            tokenizer,
            messages,
            continue_final_message=prefill is not None,
            **arguments,
        )

    def _raw(self, tokenizer: TokenizerWrapper) -> bool:
        """Whether the prompt is encoded without a chat template."""
        return self.options.ignore_chat_template or not tokenizer.has_chat_template

    def _messages(self, prompt: str) -> list[dict[str, str]]:
        messages = [{"role": "user", "content": prompt}]
        if self.request.system_prompt is not None:
            system = {"role": "system", "content": self.request.system_prompt}
            messages.insert(0, system)
        return messages

    def _template_arguments(self, tokenizer: TokenizerWrapper) -> dict[str, Any]:
        thinking = self.thinking.template_arguments(tokenizer)
        return thinking | self.request.template_arguments()


def with_other_question(prompt: str) -> str:
    """The prompt with another last paragraph, or "" if it has one paragraph only.

    What both have in common is the text that the next question may be about.
    """
    text, gap, question = prompt.rpartition("\n\n")
    return text + gap + ("B" if question.startswith("A") else "A") if text else ""


def thinking_of(options: ThinkingOptions) -> Thinking:
    """--thinking and --reasoning-effort, checked."""
    return Thinking(options.thinking, options.reasoning_effort)


def check_cache_file(file: Path | None) -> None:
    """Raise MissingFilesError if --prompt-cache-file cannot be written, before the
    answer."""
    if file is None:
        return
    try:
        if not file.parent.is_dir():
            raise MissingFilesError(
                f"There is no folder {file.parent} for --prompt-cache-file.",
                "Create it first.",
            )
        if not file.exists() and not os.access(file.parent, os.W_OK):
            raise MissingFilesError(
                f"The folder {file.parent} cannot be written to.",
                "Choose another --prompt-cache-file.",
            )
    except OSError as error:
        raise MissingFilesError(
            f"{file} cannot be used: {error.strerror}.",
            "Choose another --prompt-cache-file.",
        ) from None


def open_cache(file: Path | None, pair: Pair, max_kv_size: int | None) -> PromptCache:
    """The cache in a file if the file exists, else an empty one.

    A damaged file is renamed, with a notice.

    Args:
        file: --prompt-cache-file.
        pair: The pair that the cache must belong to.
        max_kv_size: As in PromptCache.

    Raises:
        CacheFileError: The file belongs to another pair, or is not a prompt cache.
    """
    if file is None or not file.exists():
        return PromptCache(pair, max_kv_size)
    try:
        return load_cache(file, pair, max_kv_size)
    except BrokenFileError as error:
        # Imported only here, because it takes a tenth of a second.
        from .chat.history import set_aside

        try:
            print_notice(
                f"{error.message} It was renamed to {set_aside(file)}, and a new file "
                "will be written."
            )
        except OSError as failure:
            print_notice(
                f"{error.message} It could not be renamed: {failure.strerror}."
            )
        return PromptCache(pair, max_kv_size)


def save_new_cache(file: Path | None, cache: PromptCache) -> None:
    """Write --prompt-cache-file unless the file exists."""
    if file is not None and not file.exists():
        save_cache(cache, file)


def mismatch_notice(cached: list[int], prompt: list[int]) -> str:
    """Why a prompt cache is of little use for a prompt; empty if it is of use.

    Args:
        cached: The tokens in the cache.
        prompt: The tokens of the prompt.
    """
    shared = common_prefix(cached, prompt)
    if 2 * shared >= len(cached):
        return ""
    return (
        f"{shared:,} of {len(cached):,} cached tokens match this prompt: to use the "
        "cache, pipe the same text first and ask after it."
    )


@dataclass(frozen=True)
class Ending:
    """Prints what follows an answer.

    Args:
        given: The request as it was given.
        request: The request of the answer, with its seed.
        pair: What was loaded.
        as_json: Print one JSON object instead of text.
        verbose: Print the summary on stderr.
    """

    given: AnswerRequest
    request: AnswerRequest
    pair: Pair
    as_json: bool
    verbose: bool

    def finish(
        self, text: str, last: GenerationResponse | None, interrupted: bool = False
    ) -> None:
        """Print the JSON object, or a newline and the summary.

        Args:
            text: The answer.
            last: Its last response; None prints nothing.
            interrupted: Ctrl-C ended it.
        """
        if last is None:
            return
        if self.as_json:
            reason = "interrupted" if interrupted else last.finish_reason
            print(json.dumps(self.report(text, last, reason)))
            return
        print(flush=True)
        if not self.verbose:
            return
        if last.finish_reason == "length":
            print_message(self.cutoff(last))
        for line in summary(last):
            print_message(line, DIM)
        if self.given.sampling.seed != (seed := self.request.sampling.seed):
            print_message(f"Seed: {seed}, which --seed {seed} uses again", DIM)

    def cutoff(self, last: GenerationResponse) -> str:
        """Why an answer was cut off."""
        limit, context = self.request.max_tokens, self.pair.target.context
        if last.generation_tokens == limit:
            return f"The answer was cut off at --max-tokens ({limit})."
        return f"The answer was cut off: the model's context of {context} is full."

    def report(
        self, text: str, last: GenerationResponse, finish_reason: str | None
    ) -> dict[str, Any]:
        """The JSON object of an answer."""
        return {
            "text": text,
            "finish_reason": finish_reason,
            "model": self.request.model,
            "drafter": drafter_name(self.request, self.pair),
            "seed": self.request.sampling.seed,
            "prompt_tokens": last.prompt_tokens,
            "prompt_tps": last.prompt_tps,
            "generation_tokens": last.generation_tokens,
            "generation_tps": last.generation_tps,
            "peak_memory": last.peak_memory,
            **last.stats.as_dict(),
        }
