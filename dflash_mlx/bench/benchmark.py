"""The measurement: every contender on every prompt, interleaved in one process.

Owns the order of things and what is kept of each answer. Who answers is contenders.py's
and remote.py's, what the figures mean together is results.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product, zip_longest

from mlx_lm.tokenizer_utils import TokenizerWrapper

from ..decoding.loop import decode
from ..pair import Pair
from .contenders import (
    PLAIN,
    Answer,
    Contender,
    Ours,
    Request,
    Stock,
)
from .remote import Server
from .settings import Settings
from .suites import (
    Prompt,
    check_room,
    ids_of,
    padded,
)
from .verify import margin

# Called with (answers done, answers in all, what comes next).
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Difference:
    """Where an answer first leaves plain decoding's.

    Args:
        at: Index of the token.
        margin: Plain decoding's gap between its two best logits there; None where
            noise chose, or a text ended.
        near_tie: Whether another order of summing can turn that gap.
    """

    at: int
    margin: float | None = None
    near_tie: bool = False


@dataclass
class Run:
    """A contender's answers to one prompt.

    Args:
        prompt: What was asked.
        contender: Who was asked.
        temp, context: Under which settings.
        request: What it was given.
        compared: Whether its tokens should be plain decoding's.
        answers: One a repeat.
        difference: From plain decoding's first answer, if there is one.
    """

    prompt: Prompt
    contender: str
    temp: float
    context: int
    request: Request
    compared: bool
    answers: list[Answer] = field(default_factory=list)
    difference: Difference | None = None


def contenders_of(
    pair: Pair | None,
    tokenizer: TokenizerWrapper,
    block_sizes: Sequence[int | None] = (None,),
    mlx_lm: bool = False,
    server: Server | None = None,
) -> list[Contender]:
    """Plain decoding first, then everyone else that is asked for.

    Args:
        pair: None for servers alone.
        tokenizer: The pair's.
        block_sizes: Rows of a block; None is the engine's choice.
        mlx_lm: Stock mlx-lm as well.
        server: Another server as well.
    """
    found: list[Contender] = []
    if pair is not None:
        found.append(Ours(pair, tokenizer, PLAIN, speculate=False))
        for size in dict.fromkeys(block_sizes):
            name = "auto" if size is None else str(size)
            found.append(Ours(pair, tokenizer, name, size))
        if mlx_lm:
            found.append(Stock(pair, tokenizer))
    return found + ([server] if server else [])


def measure(
    contenders: Sequence[Contender],
    prompts: Sequence[Prompt],
    settings: Settings,
    tokenizer: TokenizerWrapper,
    pair: Pair | None,
    progress: Progress = lambda done, total, what: None,
) -> list[Run]:
    """Ask everyone everything, and compare with plain decoding.

    In each repeat each prompt goes to each contender in turn, and another contender
    begins than in the last, so that a machine that grows warm favours nobody.

    Args:
        contenders: From `contenders_of`.
        prompts: What is asked.
        settings: How.
        tokenizer: The model's.
        pair: Plain decoding's, to find margins; None for servers alone.
        progress: Told before each answer.

    Raises:
        PromptError: A prompt leaves no room for its answer.
    """
    limit = pair.target.context if pair else None
    grid = plan(contenders, prompts, settings, tokenizer, limit)
    warm = warm_ups(grid, settings)
    total, done = len(warm) + settings.repeats * sum(map(len, grid)), 0
    by_name = {contender.name: contender for contender in contenders}
    for run, request in warm:
        progress(done, total, f"warm-up: {run.prompt.kind}, {run.contender}")
        by_name[run.contender].answer(request)
        done += 1
    for repeat in range(settings.repeats):
        for cell in grid:
            first = repeat % len(cell)
            for run in cell[first:] + cell[:first]:
                progress(done, total, f"{run.prompt.kind}, {run.contender}")
                run.answers.append(by_name[run.contender].answer(run.request))
                done += 1
    progress(done, total, "comparing")
    for cell in grid:
        compare(cell, pair)
    return [run for cell in grid for run in cell]


def plan(contenders, prompts, settings, tokenizer, limit) -> list[list[Run]]:
    """For each temperature, context and prompt, a run of every contender."""
    grid = []
    for context, prompt in product(settings.contexts, prompts):
        whole = padded(tokenizer, prompt, context)
        ids = ids_of(tokenizer, whole, settings.template)
        check_room(ids, settings.max_tokens, limit)
        for temp in settings.temps:
            request = Request(
                ids,
                whole.text,
                settings.max_tokens,
                settings.sampling(temp),
                settings.endless or prompt.endless,
            )
            grid.append(
                [
                    Run(prompt, c.name, temp, context, request, c.follows(temp))
                    for c in contenders
                ]
            )
    return grid


def warm_ups(grid: list[list[Run]], settings: Settings) -> list[tuple[Run, Request]]:
    """One short answer for each class, context and contender."""
    if not settings.warmup:
        return []
    firsts = {}
    for run in (run for cell in grid for run in cell):
        firsts.setdefault((run.prompt.kind, run.context, run.contender), run)
    return [
        (run, replace(run.request, max_tokens=settings.warmup))
        for run in firsts.values()
    ]


def compare(cell: list[Run], pair: Pair | None) -> None:
    """Find where each contender's text leaves plain decoding's first one."""
    plain = cell[0]
    if pair is None or plain.contender != PLAIN:
        return
    for run in cell:
        if not run.compared:
            continue
        words = plain.answers[0].tokens
        places = [first_difference(words, answer.tokens) for answer in run.answers]
        found = [at for at in places if at is not None]
        if found:
            run.difference = described(pair, run.request, min(found), len(words))


def first_difference(words: Sequence[int], others: Sequence[int]) -> int | None:
    """Index of the first token in which two texts differ; None where they are equal."""
    for at, (ours, theirs) in enumerate(zip_longest(words, others)):
        if ours != theirs:
            return at
    return None


def described(pair: Pair, request: Request, at: int, length: int) -> Difference:
    """A difference with plain decoding's margin there, where greed chose."""
    if request.sampling.temp > 0 or at >= length:
        return Difference(at)
    rounds = decode(pair, request.ids, max_tokens=at + 1, speculate=False)
    for round in rounds:
        logits = round.logits[-1]
    return Difference(at, *margin(logits))
