"""`doctor` and `report`: what this machine is, and what it does, for an issue.

Owns the sections, their order, and what is removed from them because it is private.
Every line is printed as soon as it is known, so that Ctrl-C keeps what was found. Does
not know how anything is checked or measured (metal/check.py, bench/).
"""

from __future__ import annotations

import getpass
import json
import platform
import re
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
from mlx_lm.tokenizer_utils import TokenizerWrapper

from .. import device
from ..bench import results, suites, verify
from ..bench.benchmark import contenders_of, measure
from ..bench.settings import Settings
from ..errors import DFlashError
from ..hub.registry import TINY
from ..loading import load
from ..metal.check import check
from ..metal.verdicts import Verdicts
from ..pair import Pair
from ..speculation.costs import Curve
from . import download
from .benchmark_table import number
from .kernels import cells
from .kernels import row as kernel_row
from .streams import print_notice

NO_BFLOAT16 = "emulated by this GPU: drafters run in float16 or float32"
# Lengths of the answers that are compared, and of those that are timed.
VERIFY_TOKENS, BENCHMARK_TOKENS = 128, 64
# Fixed block sizes that are timed, as far as the drafter's blocks reach.
BLOCK_SIZES = (2, 4, 8, 16)
# Classes of prompts that are timed in turn.
CLASSES = ("chat", "code", "math", "summary", "tool-json", "prose")


def doctor(as_json: bool = False) -> None:
    """Print the description of this machine."""
    facts = examine()
    if as_json:
        print(json.dumps(facts))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name.replace('_', ' '):{width}}  {value}")


def examine() -> dict[str, str]:
    """Facts about this machine, in words."""
    facts = device.describe()
    return {
        "chip": f"{facts['processor']}, {facts['cores']} cores",
        "system": f"{facts['machine']}, Python {facts['python']}",
        "versions": ", ".join(
            f"{name} {facts[name.replace('-', '_')]}"
            for name in ("dflash-mlx", "mlx", "mlx-lm")
        ),
        "metal": metal(),
        "memory": f"{device.memory_bytes() / device.GIB:.1f} GiB for models",
        "wired_limit": wired_limit(),
        "bfloat16": "native" if device.native_bfloat16() else NO_BFLOAT16,
        "kernels": chosen_kernels(),
    }


def metal() -> str:
    """The GPU, if there is one."""
    if not mx.metal.is_available():
        return "not available: MLX runs on the CPU or on CUDA, kernels are off"
    info = device.gpu_info()
    return f"{info['architecture']}, {info['memory_size'] / device.GIB:.1f} GiB shared"


def wired_limit() -> str:
    """How much memory the system lets the GPU wire."""
    limit = device.wired_limit()
    if limit is None:
        return "the system's default; decoding wires the weights of the pair"
    return f"{limit / device.GIB:.1f} GiB, set with iogpu.wired_limit_mb"


def chosen_kernels() -> str:
    """The number of operations that each kernel was chosen for."""
    if not mx.metal.is_available():
        return "off"
    verdicts = Verdicts.of_this_machine(print_notice).all()
    if not verdicts:
        return "nothing measured yet; loading a model does"
    counts = Counter(verdict.choice for verdict in verdicts.values())
    return ", ".join(f"{name} {n}" for name, n in sorted(counts.items()))


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
        return load(
            self.model or TINY,
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
        Section(f"Speed of {options.name}", lambda: speed(options)),
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
    return f"{device.model_bytes(model) / 1e6:,.1f} MB"


def speed(options: ReportOptions) -> Iterator[str]:
    """What a pass costs, then plain decoding, the engine's own widths and fixed ones.

    After Ctrl-C the figures are those of the prompts that were measured.
    """
    pair, tokenizer = options.load("auto")
    yield f"{describe(pair)}\n"
    yield from passes(pair.history.costs.curve)
    # The embedded pair knows nothing but exercises.
    kinds = CLASSES if options.model else (suites.EXERCISES,)
    prompts = in_turn(suites.builtin(tokenizer, kinds, samples=3))
    sizes = [n for n in BLOCK_SIZES if pair.drafter and n <= pair.drafter.block_size]
    contenders = contenders_of(pair, tokenizer, (None, *sizes))
    settings = Settings(max_tokens=BENCHMARK_TOKENS, repeats=1, warmup=8)
    end, runs = time.perf_counter() + options.seconds, []
    try:
        for i, prompt in enumerate(prompts):
            left = end - time.perf_counter()
            if i and left < 0:
                break
            print_notice(f"prompt {i + 1} ({prompt.kind}), {max(left, 0):.0f} s left")
            runs += measure(contenders, [prompt], settings, tokenizer, pair)
    finally:
        yield from figures(results.rows_of(runs))


def in_turn(prompts: Sequence[suites.Prompt]) -> list[suites.Prompt]:
    """The first prompt of each class, then the second of each, and so on."""
    seen: Counter[str] = Counter()
    places = []
    for prompt in prompts:
        places.append(seen[prompt.kind])
        seen[prompt.kind] += 1
    order = sorted(range(len(prompts)), key=lambda i: places[i])
    return [prompts[i] for i in order]


def figures(rows: Sequence[results.Row]) -> Iterator[str]:
    """The figures by class of prompts and engine."""
    yield from table_head(
        "class", "engine", "tokens/s", "of plain", "worst", "first token s",
        "tokens/round", "same text",
    )  # fmt: skip
    for row in rows:
        speed = row.tokens_per_second
        yield cells(
            row.kind,
            row.engine,
            f"{speed.median:.1f}" if speed else "",
            number(row.of_plain, 2),
            number(row.worst, 2),
            f"{row.first_token.median:.2f}",
            number(row.tokens_per_round, 2),
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
        yield cells(rows, *(number(s and s * 1e3, 2) for s in (target, drafter)))
    yield ""


def same_text(row: results.Row) -> str:
    """Whether the texts equal plain decoding's."""
    if not row.differences:
        return "yes"
    near = all(difference.near_tie for _, difference in row.differences)
    return f"no for {len(row.differences)}{' (near ties)' if near else ''}"


def table_head(*names: str) -> Iterator[str]:
    """The first two lines of a table."""
    yield cells(*names)
    yield cells(*["---"] * len(names))


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
