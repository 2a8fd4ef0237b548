"""What a command asks for, loaded and checked: shared by generate and chat."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from mlx_lm.tokenizer_utils import TokenizerWrapper

from ..engine import GenerationResponse, engine_of, stream_generate
from ..errors import OptionError
from ..loading import load
from ..pair import Pair
from ..prompt_cache import PromptCache
from ..types import KVBits, Sampling, require


@dataclass(frozen=True)
class Ask:
    """The options of an answer, as the command line has them."""

    model: str = "tiny"
    draft: str | None = None
    revision: str | None = None
    quantize: int | None = None
    draft_quantize: int | None = None
    draft_window: int | None = None
    adapter_path: str | None = None
    trust_remote_code: bool = False
    kernels: str = "auto"
    system_prompt: str | None = None
    chat_template_config: str | None = None
    extra_eos_token: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    max_tokens: int = 1024
    sampling: Sampling = field(default_factory=Sampling)
    block_size: int | None = None
    plain: bool = False
    require_dflash: bool = False
    prefill_step_size: int = 2048
    max_kv_size: int | None = None
    kv_bits: int | None = None
    kv_group_size: int = 64
    quantized_kv_start: int = 5000

    def __post_init__(self):
        named = self.draft not in (None, "none")
        wide, narrow = (self.block_size or 0) > 1, self.block_size == 1
        for off, on, clash in (
            ("--plain", "--draft", self.plain and named),
            ("--plain", "--require-dflash", self.plain and self.require_dflash),
            ("--plain", "--block-size", self.plain and wide),
            ("--block-size 1", "--require-dflash", narrow and self.require_dflash),
        ):
            if clash:
                raise OptionError(f"{off} and {on} exclude each other.", "Drop one.")
        most = self.max_tokens
        require(most == -1 or most > 0, "--max-tokens", "-1 or above 0", most)
        KVBits(self.kv_bits, self.kv_group_size, self.quantized_kv_start)
        size = self.block_size
        require(size is None or size >= 1, "--block-size", "1 or more", size)

    def open(self) -> tuple[Pair, TokenizerWrapper]:
        """Load what was asked for; say it when nothing will be drafted.

        Raises:
            DFlashError: As in loading.load, or drafting was required and cannot be.
        """
        pair, tokenizer = load(
            self.model,
            "none" if self.plain else self.draft,
            revision=self.revision,
            quantize=self.quantize,
            draft_quantize=self.draft_quantize,
            draft_window=self.draft_window,
            adapter_path=self.adapter_path,
            trust_remote_code=self.trust_remote_code,
            kernels=self.kernels,
            notice=note,
        )
        for token in self.extra_eos_token:
            try:
                tokenizer.add_eos_token(token)
            except ValueError as error:
                raise OptionError(f"--extra-eos-token: {error}.") from None
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
        return pair, tokenizer

    def template(self) -> dict[str, Any]:
        """--chat-template-config as keyword arguments of the template."""
        return parse_object(self.chat_template_config, "--chat-template-config")

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
            stop=self.stop,
            prompt_cache=cache,
            prefill_step_size=self.prefill_step_size,
            kv_bits=self.kv_bits,
            kv_group_size=self.kv_group_size,
            quantized_kv_start=self.quantized_kv_start,
            prompt_progress_callback=progress,
        )


def make_sampling(logit_bias: str | None = None, **options: Any) -> Sampling:
    """Sampling from command-line options, --logit-bias being JSON.

    Raises:
        OptionError: A value is out of range or no JSON.
    """
    biases = parse_object(logit_bias, "--logit-bias")
    try:
        bias = {int(token): float(value) for token, value in biases.items()}
    except (TypeError, ValueError):
        raise OptionError(
            f"--logit-bias must map token ids to numbers, but is {logit_bias!r}."
        ) from None
    return Sampling(logit_bias=bias, **options)


def parse_object(text: str | None, option: str) -> dict[str, Any]:
    """A JSON object given as an option."""
    try:
        value = json.loads(text) if text else {}
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise OptionError(f"{option} must be a JSON object, but is {text!r}.")
    return value


def note(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr, flush=True)
