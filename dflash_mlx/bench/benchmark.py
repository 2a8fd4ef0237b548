"""Measure every contender on every prompt, interleaved in one process.

Owns the order of the answers and their comparison with plain decoding. Does not know
how a contender answers (contenders.py, remote.py) or how figures are combined
(results.py).
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
    OwnEngine,
    Request,
    StockMlxLm,
)
from .remote import Server
from .settings import Settings
from .suites import (
    Prompt,
    check_fits,
    pad_prompt,
    prompt_ids,
)
from .verify import margin

# Called with (answers done, answers in total, description of the next answer).
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Difference:
    """The first token in which an answer differs from plain decoding.

    Args:
        at: Index of the token.
        margin: Difference between plain decoding's two best logits there; None if the
            token was sampled or one text ended.
        near_tie: The margin is so small that another order of additions can change
            which logit is the best.
    """

    at: int
    margin: float | None = None
    near_tie: bool = False


@dataclass
class Run:
    """The answers of one contender to one prompt.

    Args:
        prompt: The prompt as its suite has it.
        contender: Name of the contender.
        temp, context: Temperature, and tokens to which the prompt was padded.
        request: The request, which holds the padded prompt.
        compared: Whether the tokens must equal plain decoding's.
        answers: One answer per repeat.
        difference: The first difference from plain decoding's first answer, if any.
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
    """The contenders of a benchmark, plain decoding first.

    Args:
        pair: The pair to measure; None if only a server is measured.
        tokenizer: Tokenizer of the pair.
        block_sizes: Block sizes in rows; None lets the engine choose.
        mlx_lm: Add stock mlx-lm.
        server: Add this server.
    """
    found: list[Contender] = []
    if pair is not None:
        pair = pair.without_memory()  # speeds depend on no earlier answers
        found.append(OwnEngine(pair, tokenizer, PLAIN, speculate=False))
        for size in dict.fromkeys(block_sizes):
            name = "auto" if size is None else str(size)
            found.append(OwnEngine(pair, tokenizer, name, size))
        if mlx_lm:
            found.append(StockMlxLm(pair, tokenizer))
    return found + ([server] if server else [])


def measure(
    contenders: Sequence[Contender],
    prompts: Sequence[Prompt],
    settings: Settings,
    tokenizer: TokenizerWrapper,
    pair: Pair | None,
    progress: Progress = lambda done, total, what: None,
) -> list[Run]:
    """Let every contender answer every prompt, and compare with plain decoding.

    All contenders answer a prompt before the next prompt begins. Each repeat starts
    with another contender, so that a machine that slows down favours none of them.

    Args:
        contenders: From `contenders_of`.
        prompts: The prompts of all classes.
        settings: Repeats, temperatures, contexts and so on.
        tokenizer: The model's tokenizer.
        pair: The pair, for margins of differences; None if only a server is measured.
        progress: Called before each answer.

    Returns:
        The runs, grouped by context, prompt, temperature and contender.

    Raises:
        PromptError: A prompt and its answer do not fit into the model's context.
    """
    limit = pair.target.context if pair else None
    grid = make_grid(contenders, prompts, settings, tokenizer, limit)
    warm_ups = warm_up_requests(grid, settings)
    total, done = len(warm_ups) + settings.repeats * sum(map(len, grid)), 0
    by_name = {contender.name: contender for contender in contenders}
    for run, request in warm_ups:
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
        find_differences(cell, pair)
    return [run for cell in grid for run in cell]


def make_grid(contenders, prompts, settings, tokenizer, limit) -> list[list[Run]]:
    """A list of runs, one per contender, for each context, prompt and temperature."""
    grid = []
    for context, prompt in product(settings.contexts, prompts):
        padded = pad_prompt(tokenizer, prompt, context)
        ids = prompt_ids(tokenizer, padded, settings.template)
        check_fits(ids, settings.max_tokens, limit)
        for temp in settings.temps:
            request = Request(
                ids,
                padded.text,
                settings.max_tokens,
                settings.sampling(temp),
                settings.endless or prompt.endless,
            )
            grid.append(
                [
                    Run(
                        prompt, c.name, temp, context, request, c.must_match_plain(temp)
                    )
                    for c in contenders
                ]
            )
    return grid


def warm_up_requests(
    grid: list[list[Run]], settings: Settings
) -> list[tuple[Run, Request]]:
    """A short request for each class, context and contender."""
    if not settings.warmup:
        return []
    firsts = {}
    for run in (run for cell in grid for run in cell):
        firsts.setdefault((run.prompt.kind, run.context, run.contender), run)
    return [
        (run, replace(run.request, max_tokens=settings.warmup))
        for run in firsts.values()
    ]


def find_differences(cell: list[Run], pair: Pair | None) -> None:
    """Compare the answers of all contenders with plain decoding's first answer."""
    plain = cell[0]
    if pair is None or plain.contender != PLAIN:
        return
    for run in cell:
        if not run.compared:
            continue
        tokens = plain.answers[0].tokens
        places = [first_difference(tokens, answer.tokens) for answer in run.answers]
        found = [at for at in places if at is not None]
        if found:
            run.difference = difference_at(min(found), pair, run.request, len(tokens))


def first_difference(tokens: Sequence[int], others: Sequence[int]) -> int | None:
    """Index of the first token in which two texts differ; None if they are equal."""
    for at, (one, other) in enumerate(zip_longest(tokens, others)):
        if one != other:
            return at
    return None


def difference_at(at: int, pair: Pair, request: Request, length: int) -> Difference:
    """A difference with the margin of plain decoding, if the token was greedy.

    Args:
        at: Index of the token.
        pair: The pair that decodes up to this token once more.
        request: The request of the answer.
        length: Tokens of plain decoding's answer.
    """
    if request.sampling.temp > 0 or at >= length:
        return Difference(at)
    rounds = decode(pair, request.ids, max_tokens=at + 1, speculate=False)
    for round in rounds:
        logits = round.logits[-1]
    return Difference(at, *margin(logits))
