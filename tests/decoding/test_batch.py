"""Several answers at once: each says what it says alone."""

import random

import mlx.core as mx
import pytest

from dflash_mlx import Pair, PromptCache, Round, Sampling, decode
from dflash_mlx.decoding.batch import Batch
from dflash_mlx.decoding.loop import decode_steps
from tests.equipment import architectures
from tests.equipment.tiny import make_drafter, make_model, run, some_prompt

GREEDY = Sampling()
KINDS = (
    {"sampling": GREEDY, "block_size": 4},
    {"sampling": GREEDY, "block_size": 1},
    {"sampling": Sampling(temp=0.9, seed=3, top_p=0.9), "block_size": 8},
    {"sampling": Sampling(repetition_penalty=1.3), "block_size": 3},
    {"sampling": Sampling(temp=1.5, seed=8, min_p=0.02), "block_size": 16},
    {"sampling": GREEDY, "speculate": False},
    {"sampling": GREEDY},
)


def tokens_of(items) -> list[int]:
    return [token for round in items for token in round.tokens]


class Answer:
    """An answer with options of its own, alone and in a batch."""

    def __init__(self, pair, number, rows, tokens):
        self.pair, self.prompt = pair, some_prompt(rows, seed=number)
        self.options = KINDS[number % len(KINDS)] | {"prefill_step_size": 7}
        self.options["max_tokens"] = tokens
        self.alone = run(pair, self.prompt, **self.as_options())
        self.cache, self.said, self.member = PromptCache(pair), [], None

    def as_options(self):
        options = dict(self.options)
        return {"tokens": options.pop("max_tokens")} | options

    def join(self, batch):
        options = self.options | {"company": batch.company}
        steps = decode_steps(self.pair, self.prompt, prompt_cache=self.cache, **options)
        self.member = batch.add(steps, len(self.prompt))


def pair_of(family):
    if family in ("qwen3", "llama", "qwen3_moe"):
        return Pair.of(make_model(family), make_drafter())
    return Pair.of(architectures.make(family), None)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("family", ["qwen3", "qwen3_moe"])
def test_answers_that_join_and_leave_say_what_they_say_alone(family, seed):
    draw, pair = random.Random(seed), pair_of(family)
    answers = [
        Answer(pair, i, draw.randint(1, 30), draw.randint(1, 25)) for i in range(7)
    ]
    batch, waiting, left = Batch(), list(answers), []
    while waiting or batch.members:
        if waiting and (draw.random() < 0.4 or not batch.members):
            waiting.pop().join(batch)
        if batch.members and draw.random() < 0.05:
            member = draw.choice(batch.members)
            left.append(next(a for a in answers if a.member is member))
            batch.remove(member)
        for member, items in batch.turn():
            answer = next(a for a in answers if a.member is member)
            assert all(isinstance(item, Round) for item in items)
            assert member.error is None
            answer.said += tokens_of(items)
    for answer in answers:
        alone = answer.alone
        if answer in left:
            alone = alone[: len(answer.said)]
        assert answer.said == alone
        text = answer.cache.tokens + answer.cache.tail
        whole = answer.prompt + answer.said
        assert text == whole[: len(text)] and not answer.cache.broken
        assert len(text) == len(whole) or answer in left and not answer.said
        more = some_prompt(5, 77)
        assert go_on(pair, answer.cache, more) == run(pair, text + more, 6)


def go_on(pair, cache, more):
    return run(pair, more, 6, prompt_cache=cache)


def test_an_answer_that_fails_ends_alone():
    pair = pair_of("qwen3")
    good = Answer(pair, 0, 9, 20)

    def scan(tokens):
        raise KeyError("mine")

    batch = Batch()
    bad = batch.add(
        decode_steps(pair, some_prompt(8), scan=scan, company=batch.company), 8
    )
    good.join(batch)
    while batch.members:
        for member, items in batch.turn():
            if member is good.member:
                good.said += tokens_of(items)
    assert good.said == good.alone
    assert bad.ended and isinstance(bad.error, KeyError)


def test_one_chunk_of_the_shortest_prompt_in_a_turn():
    pair, steps = pair_of("qwen3"), {}
    batch = Batch()
    for name, rows in (("long", 40), ("short", 20)):
        steps[name] = []
        progress = lambda done, total, name=name: steps[name].append(done)  # noqa: E731
        answer = decode_steps(
            pair,
            some_prompt(rows),
            prefill_step_size=8,
            progress=progress,
            max_tokens=30,
            company=batch.company,
        )
        batch.add(answer, rows)
    while all(member.prefilling for member in batch.members):
        before = len(steps["short"])
        batch.turn()
        assert not steps["long"] and len(steps["short"]) <= before + 3
    (decoding,) = (member for member in batch.members if not member.prefilling)
    before = len(steps["long"])
    items = dict(batch.turn())
    assert len(steps["long"]) <= before + 2 and items[decoding]


def test_errors_before_anything_is_computed():
    pair = pair_of("qwen3")
    batch = Batch()
    bad = batch.add(decode_steps(pair, []), 0)
    ((member, items),) = batch.turn()
    assert member is bad and items == [] and "empty" in str(bad.error)
    assert not batch.members
    assert list(decode(pair, some_prompt(3), max_tokens=2)) and mx.array(1).item() == 1
