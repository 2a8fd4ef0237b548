"""Published data sets as suites: gsm8k, math500, humaneval, mbpp, mt-bench, aime25.

Prompts are put into the words of the DFlash papers' evaluation. The rows come from the
Hugging Face Hub through the package `datasets`, which is optional.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random
from typing import Any

from ..errors import MissingFilesError, MissingPackageError, OptionError
from .suites import Prompt

INSTALL = "Install it: pip install 'dflash-mlx[benchmark]'"
SHUFFLE = 42
REASON = "\nPlease reason step by step, and put your final answer within \\boxed{}."
SOLVE = (
    "Write a solution to the following problem and make sure that it passes the "
    "tests:\n```python\n%s\n```"
)

# Called with (repository, configuration, split): rows.
Loader = Callable[[str, "str | None", str], Iterable[dict[str, Any]]]


@dataclass(frozen=True)
class DataSet:
    """Where a data set is, and how a row becomes a prompt."""

    repo: str
    name: str | None
    split: str
    ask: Callable[[dict[str, Any]], str]


DATA_SETS = {
    "gsm8k": DataSet("openai/gsm8k", "main", "test", lambda r: r["question"] + REASON),
    "math500": DataSet(
        "HuggingFaceH4/MATH-500", None, "test", lambda r: r["problem"] + REASON
    ),
    "humaneval": DataSet(
        "openai/openai_humaneval", None, "test", lambda r: SOLVE % r["prompt"]
    ),
    "mbpp": DataSet(
        "google-research-datasets/mbpp", "sanitized", "test", lambda r: r["prompt"]
    ),
    # The first turn of each: a second would ask about an answer that differs by model.
    "mt-bench": DataSet(
        "HuggingFaceH4/mt_bench_prompts", None, "train", lambda r: r["prompt"][0]
    ),
    "aime25": DataSet(
        "MathArena/aime_2025", None, "train", lambda r: r["problem"] + REASON
    ),
}


def published(suite: str, samples: int, loader: Loader | None = None) -> list[Prompt]:
    """Some prompts of a data set: the first of a shuffle with a fixed seed.

    Args:
        suite: Its name.
        samples: How many at most.
        loader: Gives rows; by default the package `datasets`.

    Raises:
        OptionError: There is no such data set.
        MissingPackageError: `datasets` is not installed.
        MissingFilesError: The rows cannot be fetched, or are not what they were.
    """
    if suite not in DATA_SETS:
        raise OptionError(
            f"There is no suite {suite!r}.",
            f"Choose from builtin, {', '.join(DATA_SETS)}.",
        )
    data = DATA_SETS[suite]
    rows = list((loader or from_hub)(data.repo, data.name, data.split))
    Random(SHUFFLE).shuffle(rows)
    try:
        asks = [data.ask(row) for row in rows[:samples]]
    except (KeyError, TypeError, IndexError) as error:
        raise MissingFilesError(
            f"{data.repo} has a row without the field {error}.",
            "Has the data set changed?",
        ) from None
    if not asks:
        raise MissingFilesError(f"{data.repo} has no rows.")
    return [Prompt(suite, ask) for ask in asks]


def from_hub(repo: str, name: str | None, split: str) -> Iterable[dict[str, Any]]:
    """Rows by the package `datasets`."""
    try:
        from datasets import load_dataset
        from datasets.exceptions import DatasetsError
    except ImportError:
        raise MissingPackageError("The package datasets is missing.", INSTALL) from None
    try:
        return load_dataset(repo, name, split=split)
    except (OSError, DatasetsError, ValueError) as error:
        raise MissingFilesError(
            f"The data set {repo} cannot be fetched: {first_line(error)}",
            "Is the network up? A data set that was fetched once needs none.",
        ) from None


def first_line(error: Exception) -> str:
    """The beginning of an error's text."""
    return (str(error).splitlines() or [type(error).__name__])[0]
