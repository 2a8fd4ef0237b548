"""How a benchmark measures, as Python arguments and as options of `benchmark`.

Owns their help texts, defaults and ranges. Imports nothing heavy, so that --help stays
instant. Does not know what is measured.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from ..types import Sampling, require

# The suite of prompts in the package, and the name of a drafter with random weights.
BUILTIN = "builtin"
UNTRAINED = "untrained"


@dataclass(frozen=True)
class Settings:
    """How contenders are measured. The text beside a field is its help on the command
    line.

    Raises:
        OptionError: A value is out of range.
    """

    temps: Annotated[
        tuple[float, ...], "Sampling temperatures to measure at, for example 0,0.6,1."
    ] = (0.0,)
    contexts: Annotated[
        tuple[int, ...],
        "Lengths in tokens to pad every prompt to, for example 0,8192; 0 adds nothing.",
    ] = (0,)
    max_tokens: Annotated[int, "Maximum number of tokens in an answer."] = 128
    repeats: Annotated[int, "Number of times each contender answers each prompt."] = 3
    warmup: Annotated[
        int,
        "Number of tokens in the warm-up answers, which are not counted; 0 for none.",
    ] = 16
    top_p: Annotated[
        float,
        "Sample from the likeliest tokens that together have this probability; 1 is "
        "off.",
    ] = 1.0
    top_k: Annotated[int, "Sample from the K likeliest tokens; 0 is off."] = 0
    min_p: Annotated[
        float,
        "Drop tokens whose probability is below this share of the likeliest token's; "
        "0 is off.",
    ] = 0.0
    seed: Annotated[
        int, "Seed of the sampling, the random prompts and the untrained drafter."
    ] = 0
    endless: Annotated[
        bool, "Continue every answer to --max-tokens, past its end-of-text token."
    ] = False
    template: Annotated[
        dict[str, Any],
        "JSON object of variables for the chat template, for example "
        '{"enable_thinking": false}.',
    ] = field(default_factory=dict)

    def __post_init__(self):
        require(bool(self.temps), "--temps", "one number or more", "")
        require(bool(self.contexts), "--contexts", "one number or more", "")
        least = min(self.contexts)
        require(least >= 0, "--contexts", "0 or more", least)
        require(self.max_tokens > 1, "--max-tokens", "2 or more", self.max_tokens)
        require(self.repeats >= 1, "--repeats", "1 or more", self.repeats)
        require(self.warmup >= 0, "--warmup", "0 or more", self.warmup)
        for temp in self.temps:
            self.sampling(temp)

    def sampling(self, temp: float) -> Sampling:
        """The sampling at a temperature."""
        return Sampling(temp, self.top_p, self.top_k, self.min_p, self.seed)
