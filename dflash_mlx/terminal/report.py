"""`report`: what this machine is and does, as one block of Markdown for an issue.

Owns the sections, their order, and what is removed from them because it is private.
Every line is printed as soon as it is known, so that Ctrl-C keeps what was found. Does
not know how anything is checked or measured (metal/check.py, bench/).
"""

from __future__ import annotations

import getpass
import platform
import re
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
from mlx_lm.tokenizer_utils import TokenizerWrapper

from ..bench import results, suites, verify
from ..bench.benchmark import Run, contenders_of, measure
from ..bench.settings import Settings
from ..device import model_bytes
from ..errors import DFlashError
from ..hub.registry import TINY
from ..loading import load
from ..metal.check import check
from ..pair import Pair
from ..speculation.costs import Curve
from . import download
from .doctor import examine
from .kernels import row as kernel_row
from .streams import print_notice

# Lengths of the answers that are compared, and of those that are timed.
VERIFY_TOKENS, BENCHMARK_TOKENS = 128, 64
# Fixed block sizes that are timed, as far as the drafter's blocks reach.
BLOCK_SIZES = (2, 4, 8, 16)
# Classes of prompts that are timed in turn.
CLASSES = ("chat", "code", "math", "summary", "tool-json", "prose")


class CheckFailed(DFlashError):
    """A section found that something is wrong."""


@dataclass(frozen=True)
class ReportOptions:
    """What a report is about.

    Args:
        model, draft, quantize, draft_quantize, trust_remote_code: As in loading.load;
            a model of None reports on the embedded pair only.
        seconds: Seconds for the benchmark. The answers to one prompt are always timed.
    """

    model: str | None = None
    draft: str | None = None
    quantize: int | None = None
    draft_quantize: int | None = None
    trust_remote_code: bool = False
    seconds: float = 120.0

    @property
    def name(self) -> str:
        """The model's name, without the folders above it."""
        return shown_name(self.model or TINY)

    def load(self, kernels: str) -> tuple[Pair, TokenizerWrapper]:
        """The pair that the report is about, and its tokenizer."""
        if self.model is None:
            return load(TINY, kernels=kernels, notice=print_notice)
        return load(
            self.model,
            self.draft,
            quantize=self.quantize,
            draft_quantize=self.draft_quantize,
            trust_remote_code=self.trust_remote_code,
            kernels=kernels,
            notice=print_notice,
        )


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Args:
        title: Its heading.
        lines: Yields its lines of Markdown while they are found.
    """

    title: str
    lines: Callable[[], Iterator[str]]


def run(options: ReportOptions) -> bool:
    """Print the report.

    Returns:
        Whether every section ended without an error, and no check failed.

    Raises:
        KeyboardInterrupt: After a line that says where the report was stopped.
    """
    if options.model:
        download.fetch(options.model, options.draft, notice=print_notice)
    scrub, complete = Scrubber(), True
    sections = sections_of(options)
    start = time.perf_counter()
    print(f"### dflash-mlx report, {options.name}", flush=True)
    for i, section in enumerate(sections):
        print_notice(f"{i + 1} of {len(sections)}: {section.title}")
        print(f"\n#### {section.title}\n", flush=True)
        try:
            for line in section.lines():
                print(scrub(line), flush=True)
        except DFlashError as error:
            complete = False
            print(scrub(f"**{error}**"), flush=True)
        except Exception:  # a bug belongs into the report, which then goes on
            complete = False
            print(scrub(f"```\n{traceback.format_exc()}```"), flush=True)
        except KeyboardInterrupt:
            print("\n(stopped here with Ctrl-C)", flush=True)
            raise
    minutes = (time.perf_counter() - start) / 60
    print(f"\nMeasured in {minutes:.1f} minutes.", flush=True)
    return complete


def sections_of(options: ReportOptions) -> list[Section]:
    """The sections of a report, in order."""
    found = [Section("Machine", machine), Section("Kernels", kernels)]
    for subject in [ReportOptions(), options] if options.model else [options]:
        for mode, words in (("auto", ""), ("exact", " with --exact")):
            found.append(
                Section(
                    f"Answers of {subject.name}{words}, with drafts and without",
                    lambda subject=subject, mode=mode: comparison(subject, mode),
                )
            )
    found.append(
        Section(f"Speed of {options.name}", lambda: Speed(options).lines()),
    )
    return found


def machine() -> Iterator[str]:
    """This machine, as `doctor` describes it."""
    for name, value in examine().items():
        yield f"- {name.replace('_', ' ')}: {value}"


def kernels() -> Iterator[str]:
    """The checks of every Metal kernel."""
    if not mx.metal.is_available():
        yield "There is no Metal GPU here, so no kernel runs."
        return
    yield from table_head("kernel", "question", "cases", "answer")
    wrong = []
    for finding in check():
        wrong += [] if finding.right else [finding.kernel]
        yield kernel_row(finding)
    yield ""
    if wrong:
        raise CheckFailed(
            f"These kernels are wrong: {', '.join(dict.fromkeys(wrong))}."
        )
    yield "Every kernel is correct."


def comparison(options: ReportOptions, mode: str) -> Iterator[str]:
    """The answers with drafts, compared with plain decoding."""
    pair, tokenizer = options.load(mode)
    yield f"{describe(pair)}\n"
    pair.require_drafter()
    found = []
    compared = verify.compare_all(pair, tokenizer, max_tokens=VERIFY_TOKENS)
    for result in compared:
        found.append(result)
        yield f"- {verify.one_line(result)}"
    yield f"\n{verify.summary(found)}"
    if not verify.is_right(found, mode):
        yield ""
        raise CheckFailed("Drafting changed an answer.")


def describe(pair: Pair) -> str:
    """A pair in one line: kinds, sizes, kernels."""
    drafter = f"no drafter ({pair.reason})"
    if pair.drafter is not None:
        drafter = (
            f"{type(pair.drafter).__name__} drafter, {size(pair.drafter)}, blocks of "
            f"{pair.drafter.block_size} rows"
        )
    active = ", ".join(pair.kernels_in_service) or "none"
    kind = pair.target.config.get("model_type", "unknown")
    return f"{kind} target, {size(pair.model)}; {drafter}; kernels: {active}."


def size(model) -> str:
    """The size of a model's arrays."""
    return f"{model_bytes(model) / 1e6:,.1f} MB"


class Speed:
    """The benchmark: plain decoding, the engine's own widths, and fixed ones.

    Args:
        options: What is measured, and for how long.
    """

    def __init__(self, options: ReportOptions):
        self.options = options
        self.runs: list[Run] = []

    def lines(self) -> Iterator[str]:
        """Measure, and yield the tables. After Ctrl-C they hold what was measured."""
        pair, tokenizer = self.options.load("auto")
        yield f"{describe(pair)}\n"
        yield from passes(pair.history.costs.curve)
        try:
            self.measure(pair, tokenizer)
        except KeyboardInterrupt:
            yield from self.table()
            raise
        yield from self.table()

    def measure(self, pair: Pair, tokenizer: TokenizerWrapper) -> None:
        """Time the answers to one prompt after the other until the time is over."""
        sizes = (None,)
        if pair.drafter is not None:
            most = pair.drafter.block_size
            sizes += tuple(n for n in BLOCK_SIZES if n <= most)
        contenders = contenders_of(pair, tokenizer, sizes)
        settings = Settings(max_tokens=BENCHMARK_TOKENS, repeats=1, warmup=8)
        prompts = suites.builtin(tokenizer, self.classes(), samples=3)
        by_turns = sorted(prompts, key=lambda p: order_in_class(p, prompts))
        end = time.perf_counter() + self.options.seconds
        for i, prompt in enumerate(by_turns):
            left = end - time.perf_counter()
            if i and left < 0:
                break
            print_notice(f"prompt {i + 1} ({prompt.kind}), {max(left, 0):.0f} s left")
            self.runs += measure(contenders, [prompt], settings, tokenizer, pair)

    def classes(self) -> tuple[str, ...]:
        """The classes that are timed. The embedded pair knows nothing but exercises."""
        return CLASSES if self.options.model else (suites.EXERCISES,)

    def table(self) -> Iterator[str]:
        """The figures by class of prompts and engine."""
        yield from table_head(
            "class", "engine", "tokens/s", "of plain", "worst", "first token s",
            "tokens/round", "same text",
        )  # fmt: skip
        for row in results.rows_of(self.runs):
            speed = row.tokens_per_second
            yield cells(
                row.kind,
                row.engine,
                f"{speed.median:.1f}" if speed else "",
                decimals(row.of_plain),
                decimals(row.worst),
                f"{row.first_token.median:.2f}",
                decimals(row.tokens_per_round),
                "" if row.contender == "plain" else same_text(row),
            )


def passes(curve: Curve) -> Iterator[str]:
    """What a pass costs, by rows."""
    if curve.assumed:
        yield "The cost of a pass was not measured.\n"
        return
    yield from table_head("rows", "target ms", "drafter ms")
    for rows in sorted({*curve.verify, *curve.draft}):
        target, drafter = curve.verify.get(rows), curve.draft.get(rows)
        yield cells(rows, milliseconds(target), milliseconds(drafter))
    yield ""


def order_in_class(prompt: suites.Prompt, prompts: Sequence[suites.Prompt]) -> int:
    """The place of a prompt among those of its class."""
    return [p for p in prompts if p.kind == prompt.kind].index(prompt)


def same_text(row: results.Row) -> str:
    """Whether the texts equal plain decoding's."""
    if not row.differences:
        return "yes"
    near = all(difference.near_tie for _, difference in row.differences)
    return f"no for {len(row.differences)}{' (near ties)' if near else ''}"


def milliseconds(seconds: float | None) -> str:
    """Seconds as milliseconds; empty for None."""
    return "" if seconds is None else f"{seconds * 1e3:.2f}"


def decimals(value: float | None) -> str:
    """A number with two decimals; empty for None."""
    return "" if value is None else f"{value:.2f}"


def table_head(*names: str) -> Iterator[str]:
    """The first two lines of a table."""
    yield cells(*names)
    yield cells(*["---"] * len(names))


def cells(*values: object) -> str:
    """A row of a table."""
    return f"| {' | '.join(map(str, values))} |"


def shown_name(model: str) -> str:
    """A model's name; of a folder only its last part."""
    return Path(model).name if Path(model).expanduser().is_dir() else model


class Scrubber:
    """Removes what is private from a line: home folders, the user's and host's names.

    Call it with a text.
    """

    def __init__(self):
        names = {user_name(), Path.home().name, platform.node().partition(".")[0]}
        words = "|".join(re.escape(name) for name in sorted(names) if len(name) > 2)
        self.home = str(Path.home())
        self.folders = re.compile(r"/(?:Users|home)/[^/\s'\"]+")
        self.words = re.compile(rf"\b(?:{words})\b") if words else None

    def __call__(self, text: str) -> str:
        if len(self.home) > 1:
            text = text.replace(self.home, "~")
        text = self.folders.sub("~", text)
        return self.words.sub("***", text) if self.words else text


def user_name() -> str:
    """The user's name, or an empty string if the system knows none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""
