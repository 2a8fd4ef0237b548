"""What generate and chat ask for: checked, loaded, answered.

The options are answering.py's; what an answer is made of, the engine's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from mlx_lm.tokenizer_utils import TokenizerWrapper

from ..cache.prompt_cache import PromptCache
from ..engine import GenerationResponse, engine_of, stream_generate
from ..errors import OptionError
from ..loading import check_options, load
from ..pair import Pair
from ..tuning.calibrate import MEASURING
from ..types import (
    KVBits,
    Sampling,
    check_block_size,
    require,
)
from . import download
from .answer_options import AnswerOptions, SamplingOptions, Shorthand
from .options import template_options
from .screen import progress


@dataclass(frozen=True)
class AnswerRequest(AnswerOptions):
    """The options of an answer."""

    sampling: Sampling = field(default_factory=Sampling)

    @classmethod
    def of(
        cls, asked: AnswerOptions, sampling: SamplingOptions, short: Shorthand
    ) -> AnswerRequest:
        """From a command line.

        Raises:
            OptionError: Options exclude each other, or are out of range.
        """
        values = vars(asked) | short.apply(asked)
        return cls(**values, sampling=sampling.sampling())

    def __post_init__(self):
        named = self.draft not in (None, "none")
        wide, narrow = (self.block_size or 0) > 1, self.block_size == 1
        window = self.draft_window is not None
        for off, on, clash in (
            ("--plain", "--draft", self.plain and named),
            ("--plain", "--require-dflash", self.plain and self.require_dflash),
            ("--plain", "--block-size", self.plain and wide),
            ("--plain", "--draft-window", self.plain and window),
            ("--plain", "--draft-quantize", self.plain and bool(self.draft_quantize)),
            ("--block-size 1", "--require-dflash", narrow and self.require_dflash),
        ):
            if clash:
                raise OptionError(f"{off} and {on} exclude each other.", "Drop one.")
        most = self.max_tokens
        require(most == -1 or most > 0, "--max-tokens", "-1 or above 0", most)
        asked = KVBits(self.kv_bits, self.kv_group_size, self.quantized_kv_start)
        if asked.bits is None and asked != KVBits():
            raise OptionError(
                "--kv-group-size and --quantized-kv-start are for --kv-bits.",
                "Give it too, or leave them out.",
            )
        check_block_size(self.block_size, "--block-size")
        check_options(
            self.quantize, self.draft_quantize, self.draft_window, self.kernels
        )

    def open(self, shown: bool | None = None) -> tuple[Pair, TokenizerWrapper]:
        """Load what was asked for; say it when nothing will be drafted.

        Args:
            shown: Show progress; None is on a terminal.

        Raises:
            DFlashError: As in loading.load, or drafting was required and cannot be.
        """
        shown = progress.wanted() if shown is None else shown

        def told(line):
            if shown or line != MEASURING:  # it explains a wait, and nothing else
                note(line)

        draft = "none" if self.plain else self.draft
        download.fetch(self.model, draft, self.revision, notice=note, shown=shown)
        with progress.spinner(f"Loading {self.model}", shown):
            pair, tokenizer = load(
                self.model,
                draft,
                revision=self.revision,
                quantize=self.quantize,
                draft_quantize=self.draft_quantize,
                draft_window=self.draft_window,
                adapter_path=self.adapter_path,
                trust_remote_code=self.trust_remote_code,
                kernels=self.kernels,
                notice=told,
            )
        self.add_eos(tokenizer)
        self.judge(pair)
        return pair, tokenizer

    def add_eos(self, tokenizer: TokenizerWrapper) -> None:
        """Give the tokenizer --extra-eos-token.

        Raises:
            OptionError: The vocabulary has no such token.
        """
        for token in self.extra_eos_token or ():
            try:
                tokenizer.add_eos_token(token)
            except ValueError as error:
                raise OptionError(f"--extra-eos-token: {error}.") from None

    def judge(self, pair: Pair) -> None:
        """Say it when nothing will be drafted, or little.

        Raises:
            DFlashError: Drafting was required and cannot be.
        """
        if self.require_dflash:
            pair.require_drafter()
        engine, reason = engine_of(pair, not self.plain, self.block_size)
        if engine == "plain" and not self.plain:
            note(f"Decoding plainly: {reason}.")
        elif pair.drafter and (self.block_size or 0) > pair.drafter.block_size:
            note(
                f"The drafter was trained for blocks of {pair.drafter.block_size}; "
                f"blocks of {self.block_size} draft worse."
            )

    def template(self) -> dict[str, Any]:
        """--chat-template-config as keyword arguments of the template."""
        return template_options(self.chat_template_config)

    def stream(
        self,
        pair: Pair,
        tokenizer: TokenizerWrapper,
        prompt: str | list[int],
        cache: PromptCache,
        progress: Callable[[int, int], None] | None = None,
    ) -> Iterator[GenerationResponse]:
        """Answer a prompt.

        Args:
            pair, tokenizer: From `open`.
            prompt: What follows the content of `cache`.
            cache: Goes on from it, and leaves the answer in it.
            progress: Called with (prompt tokens done, tokens in all).
        """
        sampling = self.sampling
        if sampling.xtc_probability:
            # As mlx-lm has it, XTC spares the tokens that end a line or the text.
            spared = tokenizer.encode("\n", add_special_tokens=False)
            spared = (*spared, *sorted(tokenizer.eos_token_ids))
            sampling = replace(sampling, xtc_special_tokens=spared)
        return stream_generate(
            pair,
            tokenizer,
            prompt,
            max_tokens=self.max_tokens,
            sampling=sampling,
            block_size=self.block_size,
            speculate=not self.plain,
            stop=self.stop or (),
            prompt_cache=cache,
            prefill_step_size=self.prefill_step_size,
            kv_bits=self.kv_bits,
            kv_group_size=self.kv_group_size,
            quantized_kv_start=self.quantized_kv_start,
            prompt_progress_callback=progress,
        )


def note(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr, flush=True)
