"""A request for an answer: its options checked, its models loaded, its stream started.

Owns which options exclude each other. Does not know how an option is written (see
answer_options.py) or how an answer is displayed.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mlx_lm.tokenizer_utils import TokenizerWrapper

from ..cache.prompt_cache import PromptCache
from ..device import SUSPENSIONS
from ..engine import engine_of, stream_generate
from ..errors import OptionError
from ..hub.registry import TINY
from ..loading import check_options, load
from ..pair import Pair
from ..responses import GenerationResponse
from ..store import has_home
from ..text.prompt import xtc_special_tokens
from ..tuning.calibrate import MEASURING
from ..types import (
    KVBits,
    Sampling,
    check_block_size,
    require,
)
from . import download
from .answer_options import AnswerOptions, SamplingOptions, Shorthand
from .options import check_exclusive, check_template_arguments, parse_object
from .screen import progress
from .streams import print_notice

if TYPE_CHECKING:
    from ..text.grammar import Grammar

NO_HOME = (
    "This user has no home folder, so measurements and the history of chats are not "
    "kept."
)


@dataclass(frozen=True)
class AnswerRequest(AnswerOptions):
    """The checked options of an answer.

    Args:
        model: As in loading.load.
        sampling: How tokens are chosen.

    Raises:
        OptionError: Options exclude each other, or are out of range.
    """

    model: str = TINY
    sampling: Sampling = field(default_factory=Sampling)

    @classmethod
    def from_options(
        cls, options: AnswerOptions, sampling: SamplingOptions, shorthand: Shorthand
    ) -> AnswerRequest:
        """The request of a command line.

        Raises:
            OptionError: Options exclude each other, or are out of range.
        """
        values = vars(options) | shorthand.apply(options)
        values["model"] = options.model or TINY
        return cls(**values, sampling=sampling.sampling())

    def __post_init__(self):
        self._check_exclusive()
        most = self.max_tokens
        require(most == -1 or most > 0, "--max-tokens", "-1 or above 0", most)
        kv = KVBits(self.kv_bits, self.kv_group_size, self.quantized_kv_start)
        if kv.bits is None and kv != KVBits():
            raise OptionError(
                "--kv-group-size and --quantized-kv-start need --kv-bits.",
                "Add --kv-bits, or leave them out.",
            )
        check_block_size(self.block_size, "--block-size")
        check_options(
            self.quantize, self.draft_quantize, self.draft_window, self.kernels
        )

    def _check_exclusive(self) -> None:
        for_drafts = {
            "--require-dflash": self.require_dflash,
            "--block-size": (self.block_size or 0) > 1,
            "--draft-window": self.draft_window is not None,
            "--draft-quantize": bool(self.draft_quantize),
        }
        for option, given in for_drafts.items():
            check_exclusive("--plain", option, self.plain and given)
        single_rows = self.block_size == 1
        check_exclusive(
            "--block-size 1", "--require-dflash", single_rows and self.require_dflash
        )

    def with_seed(self) -> AnswerRequest:
        """The request with a seed, which is random if it samples and none was given.

        So the seed of an answer is known, and the answer can be repeated.
        """
        if self.sampling.temp == 0 or self.sampling.seed is not None:
            return self
        seed = secrets.randbelow(2**32)
        return replace(self, sampling=replace(self.sampling, seed=seed))

    def load(self, show_progress: bool | None = None) -> tuple[Pair, TokenizerWrapper]:
        """Load the models, and print a notice if decoding will be plain.

        Args:
            show_progress: Display progress; None does on a terminal.

        Raises:
            DFlashError: As in loading.load, or drafting is required and not possible.
        """
        shown = progress.wanted() if show_progress is None else show_progress
        SUSPENSIONS.watch()

        def notify(line):
            if shown or line != MEASURING:  # which only explains the wait
                print_notice(line)

        if not has_home():
            print_notice(NO_HOME)
        draft = "none" if self.plain else self.draft
        download.fetch(
            self.model, draft, self.revision, notice=print_notice, show_progress=shown
        )
        with progress.spinner(f"Loading {self.model}", shown) as status:
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
                calibration=not self.no_calibration,
                wired=not self.no_wired,
                notice=notify,
                status=status,
            )
        self.add_eos_tokens(tokenizer)
        self.report_plain_decoding(pair)
        return pair, tokenizer

    def add_eos_tokens(self, tokenizer: TokenizerWrapper) -> None:
        """Add --extra-eos-token to the tokenizer.

        Raises:
            OptionError: The vocabulary lacks the token.
        """
        for token in self.extra_eos_token or ():
            try:
                tokenizer.add_eos_token(token)
            except ValueError as error:
                raise OptionError(f"--extra-eos-token: {error}.") from None

    def report_plain_decoding(self, pair: Pair) -> None:
        """Print a notice if decoding will be plain, or blocks are wider than trained.

        Raises:
            DFlashError: Drafting is required and not possible.
        """
        if self.require_dflash:
            pair.require_drafter()
        engine, reason = engine_of(pair, not self.plain, self.block_size)
        if engine == "plain" and not self.plain:
            print_notice(f"Using plain decoding: {reason}.")
        elif pair.drafter and (self.block_size or 0) > pair.drafter.block_size:
            print_notice(
                f"The drafter was trained for blocks of {pair.drafter.block_size} "
                f"rows; fewer drafts are accepted with blocks of {self.block_size}."
            )

    def template_arguments(self) -> dict[str, Any]:
        """--chat-template-config as arguments for the chat template.

        Raises:
            OptionError: It is not a JSON object, or sets a reserved argument.
        """
        config = self.chat_template_config
        return check_template_arguments(parse_object(config, "--chat-template-config"))

    def stream(
        self,
        pair: Pair,
        tokenizer: TokenizerWrapper,
        prompt: str | list[int],
        cache: PromptCache,
        progress: Callable[[int, int], None] | None = None,
        grammar: Grammar | None = None,
    ) -> Iterator[GenerationResponse]:
        """Answer a prompt.

        Args:
            pair, tokenizer: From `load`.
            prompt: What follows the content of `cache`.
            cache: Holds the beginning of the prompt, and afterwards the answer too.
            progress: Called with (prompt tokens done, prompt tokens in total).
            grammar: What the answer may look like.

        Returns:
            The responses of engine.stream_generate.
        """
        sampling = self.sampling
        if sampling.xtc_probability:
            kept = xtc_special_tokens(tokenizer)
            sampling = replace(sampling, xtc_special_tokens=kept)
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
            grammar=grammar,
        )
