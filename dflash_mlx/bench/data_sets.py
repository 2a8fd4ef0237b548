"""Load prompts from data sets: gsm8k, math500, humaneval, mbpp, mt-bench, aime25.

Owns the wording of the prompts, from the evaluation in the DFlash papers. The rows
come from the Hugging Face Hub, through the optional package `datasets`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random
from typing import Any

from ..errors import MissingFilesError, MissingPackageError, OptionError
from .suites import Prompt

INSTALL = "Install it: pip install 'dflash-mlx[benchmark]'"
SEED = 42  # of the shuffle
REASONING = "\nPlease reason step by step, and put your final answer within \\boxed{}."
CODE = (
    "Write a solution to the following problem and make sure that it passes the "
    "tests:\n```python\n%s\n```"
)

# Takes (repository, configuration, split), and returns the rows.
Loader = Callable[[str, "str | None", str], Iterable[dict[str, Any]]]


@dataclass(frozen=True)
class DataSet:
    """A data set on the Hub, and the function that makes a prompt of a row."""

    repo: str
    name: str | None
    split: str
    to_prompt: Callable[[dict[str, Any]], str]


DATA_SETS = {
    "gsm8k": DataSet(
        "openai/gsm8k", "main", "test", lambda r: r["question"] + REASONING
    ),
    "math500": DataSet(
        "HuggingFaceH4/MATH-500", None, "test", lambda r: r["problem"] + REASONING
    ),
    "humaneval": DataSet(
        "openai/openai_humaneval", None, "test", lambda r: CODE % r["prompt"]
    ),
    "mbpp": DataSet(
        "google-research-datasets/mbpp", "sanitized", "test", lambda r: r["prompt"]
    ),
    # The first turn only: the second one depends on the model's answer.
    "mt-bench": DataSet(
        "HuggingFaceH4/mt_bench_prompts", None, "train", lambda r: r["prompt"][0]
    ),
    "aime25": DataSet(
        "MathArena/aime_2025", None, "train", lambda r: r["problem"] + REASONING
    ),
}


def load_prompts(
    suite: str, samples: int, loader: Loader | None = None
) -> list[Prompt]:
    """The first prompts of a data set after a shuffle with a fixed seed.

    Args:
        suite: Name of the data set.
        samples: Maximum number of prompts.
        loader: Loads the rows; None uses the package `datasets`.

    Raises:
        OptionError: The data set is unknown.
        MissingPackageError: `datasets` is not installed.
        MissingFilesError: The rows cannot be fetched, or have other fields.
    """
    if suite not in DATA_SETS:
        raise OptionError(
            f"There is no suite {suite!r}.",
            f"Choose from builtin, {', '.join(DATA_SETS)}.",
        )
    data = DATA_SETS[suite]
    rows = list((loader or load_from_hub)(data.repo, data.name, data.split))
    Random(SEED).shuffle(rows)
    try:
        texts = [data.to_prompt(row) for row in rows[:samples]]
    except (KeyError, TypeError, IndexError) as error:
        raise MissingFilesError(
            f"The data set {data.repo} has a row without the field {error}.",
            "The data set may have changed. Choose another suite.",
        ) from None
    if not texts:
        raise MissingFilesError(f"The data set {data.repo} has no rows.")
    return [Prompt(suite, text) for text in texts]


def load_from_hub(repo: str, name: str | None, split: str) -> Iterable[dict[str, Any]]:
    """Load the rows with the package `datasets`."""
    try:
        from datasets import load_dataset
        from datasets.exceptions import DatasetsError
    except ImportError:
        raise MissingPackageError(
            "The package datasets is not installed.", INSTALL
        ) from None
    try:
        return load_dataset(repo, name, split=split)
    except (OSError, DatasetsError, ValueError) as error:
        raise MissingFilesError(
            f"The data set {repo} could not be downloaded: {first_line(error)}",
            "Check your network. A data set that was downloaded before needs none.",
        ) from None


def first_line(error: Exception) -> str:
    """The first line of an error, or its type if it has no text."""
    return (str(error).splitlines() or [type(error).__name__])[0]
