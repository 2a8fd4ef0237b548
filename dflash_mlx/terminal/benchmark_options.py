"""What `benchmark` measures: the options beside bench.settings.Settings.

Owns which options exclude each other. Imports nothing heavy, so that --help stays
instant. Does not know how anything is loaded or measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ..bench.settings import BUILTIN, UNTRAINED
from ..errors import OptionError
from ..types import require
from . import shell_completion
from .options import (
    DraftQuantize,
    Kernels,
    Model,
    Quantize,
    TrustRemoteCode,
    check_exclusive,
    option,
)

PROMPTS = "Prompts"
CONTENDERS = "Contenders"


@dataclass(frozen=True)
class BenchmarkOptions:
    """The model, the prompts and the contenders.

    Raises:
        OptionError: A value is out of range, or options exclude each other.
    """

    model: Model = "tiny"
    draft: Annotated[
        str | None,
        option(
            "--draft --draft-model",
            "The drafter: an alias, a Hub id, a folder, or untrained for random "
            "weights. Default: the known drafter of the model.",
            autocompletion=shell_completion.drafters,
        ),
    ] = None
    shape: Annotated[
        str | None,
        option(
            "--shape",
            "Measure the embedded pair, widened to the size of this model. Nothing is "
            "downloaded.",
            autocompletion=shell_completion.shapes,
        ),
    ] = None
    quantize: Quantize = None
    draft_quantize: DraftQuantize = None
    trust_remote_code: TrustRemoteCode = False
    kernels: Kernels = "auto"
    suites: Annotated[
        tuple[str, ...],
        option(
            "--suite",
            f"Sets of prompts, separated by commas: "
            f"{', '.join(shell_completion.SUITES)}.",
            PROMPTS,
            autocompletion=shell_completion.words(*shell_completion.SUITES),
        ),
    ] = (BUILTIN,)
    classes: Annotated[
        tuple[str, ...],
        option(
            "--classes",
            "Classes of the built-in suite, separated by commas, for example "
            "chat,code. Default: all.",
            PROMPTS,
            autocompletion=shell_completion.classes,
        ),
    ] = ()
    samples: Annotated[
        int,
        option("--samples", "Maximum number of prompts per class or suite.", PROMPTS),
    ] = 3
    context: Annotated[
        int,
        option(
            "--context",
            "Length in tokens of the texts in the class long-context.",
            PROMPTS,
        ),
    ] = 2048
    block_sizes: Annotated[
        tuple[int | None, ...],
        option(
            "--block-sizes",
            "Block sizes to measure, in rows, for example auto,2,4,8; auto is the "
            "engine's own choice.",
            CONTENDERS,
        ),
    ] = (None,)
    mlx_lm: Annotated[
        bool, option("--mlx-lm", "Also measure mlx_lm.stream_generate.", CONTENDERS)
    ] = False
    base_url: Annotated[
        str | None,
        option(
            "--base-url",
            "Also measure the OpenAI-compatible server at this address.",
            CONTENDERS,
            metavar="URL",
        ),
    ] = None
    api_model: Annotated[
        str | None,
        option(
            "--api-model",
            "Name of the model on the server. Default: the first that it lists.",
            CONTENDERS,
        ),
    ] = None
    local: Annotated[
        bool,
        option(
            "--local/--no-local",
            "Measure dflash-mlx itself; --no-local measures only the server.",
            CONTENDERS,
        ),
    ] = True

    def __post_init__(self):
        require(self.samples >= 1, "--samples", "1 or more", self.samples)
        require(self.context >= 1, "--context", "1 or more", self.context)
        for size in self.block_sizes:
            require(size is None or size >= 2, "--block-sizes", "2 or more", size)
        if not self.local and not self.base_url:
            raise OptionError(
                "--no-local needs --base-url: there is nothing left to measure."
            )
        shape, server_only = self.shape is not None, not self.local
        named_drafter = self.draft not in (None, UNTRAINED)
        check_exclusive("--shape", "--model", shape and self.model != "tiny")
        check_exclusive("--shape", f"--draft {self.draft}", shape and named_drafter)
        check_exclusive("--no-local", "--shape", server_only and shape)
        check_exclusive("--no-local", "--mlx-lm", server_only and self.mlx_lm)
        if self.classes and BUILTIN not in self.suites:
            raise OptionError(
                "--classes needs the suite builtin.", "Add --suite builtin."
            )
