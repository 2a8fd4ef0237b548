"""Turns of a chat: what is computed again, and that the words do not depend on it."""

from __future__ import annotations

import mlx.core as mx
import pytest
from chars import STABLE, TEMPLATES, THINKING, character_tokenizer
from test_caches import hybrid
from tiny import Script, make_drafter, make_model, reference, run

from dflash_mlx import Pair, PromptCache, decode
from dflash_mlx.chat_template import apply_template, marks
from dflash_mlx.prompt_cache import common_prefix
from dflash_mlx.types import KVBits

KINDS = {
    "growing": lambda: make_model("llama"),
    "rotating": lambda: hybrid("gemma3_text"),
    "hybrid": lambda: hybrid("qwen3_next"),
    "recurrent": lambda: hybrid("mamba"),
}
ANSWER = 24


class Talk:
    """A conversation with a model, beside fresh runs of the same prompts.

    Args:
        model: The target.
        template: A chat template.
        drafted: Which drafts of each block are right, as Script has it.
    """

    def __init__(self, model, template, drafted=(0, 2, 5)):
        self.model, self.drafted = model, list(drafted)
        self.tokenizer = character_tokenizer(template)
        self.pair = Pair.of(model, Script([0], self.drafted))
        self.cache = PromptCache(self.pair)
        self.messages, self.prompt = [], []
        self.rows = 0
        self.cuts = not self.cache.forgets
        forward = self.pair.target.forward

        def counting(tokens, *rest):
            self.rows += tokens.shape[1]
            return forward(tokens, *rest)

        self.pair.target.forward = counting

    def ask(self, text, **options):
        """Say something; how many rows passed before the first token."""
        self.messages.append({"role": "user", "content": text})
        return self.answer(**options)

    def held(self, template):
        """How many tokens the next turn finds computed, at least."""
        if template == "stable":
            return len(self.prompt) + len(self.last) - 1  # the last did not pass
        # The turn is said anew from behind the user's words.
        said = self.tokenizer.decode(self.prompt)
        return said.rindex("[assistant]") + len("[assistant]")

    def new(self, held):
        """Tokens of the prompt that were not found; a few may agree by chance."""
        assert held <= self.common
        return len(self.prompt) - (self.common if self.cuts else held)

    def answer(self, tokens=ANSWER, stop=None):
        """Have the last message answered; stopped after so many tokens."""
        ids = apply_template(self.tokenizer, self.messages)
        wanted = reference(self.model, ids, ANSWER)
        self.pair.drafter.text = ids + wanted
        self.prompt = ids
        self.common = min(common_prefix(self.cache.tokens, ids), len(ids) - 1)
        rest = self.cache.reuse(ids, marks(self.tokenizer, self.messages))
        self.rows = 0
        told, passed = [], []
        rounds = decode(
            self.pair, rest, max_tokens=tokens, prompt_cache=self.cache, block_size=6
        )
        for round in rounds:
            told += round.tokens
            passed.append(self.rows)
            if stop and len(told) >= stop:
                break
        rounds.close()
        assert told == wanted[: len(told)] and (stop or len(told) == tokens)
        self.last = self.tokenizer.decode(told)
        self.messages.append({"role": "assistant", "content": self.last})
        return passed[0]


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    return KINDS[request.param]()


@pytest.mark.slow
@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("drafted", [(0,), (5,), (0, 2, 5)])
def test_later_turns_compute_new_tokens_only(model, template, drafted):
    talk = Talk(model, TEMPLATES[template], drafted)
    assert talk.ask("How do you do, and what is new?") == len(talk.prompt)
    for text in ("And then? Tell me more.", "Why?", "A third time, please."):
        held = talk.held(template)
        assert talk.ask(text) == talk.new(held)


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_same_prompt_again(model, template):
    """What /retry does."""
    talk = Talk(model, TEMPLATES[template])
    talk.ask("Once upon a time, far from here,")
    for _ in range(2):
        talk.messages.pop()
        assert talk.answer() == 1
    talk.ask("And?")
    talk.messages.pop()
    assert talk.answer() == 1


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("turns", (0, 1, 2))
def test_another_question_in_place_of_an_earlier_one(model, template, turns):
    """What /undo and /edit do."""
    talk = Talk(model, TEMPLATES[template])
    for text in ("Once upon a time, far from here,", "And?", "More!"):
        talk.ask(text)
    talk.messages = talk.messages[: 2 * turns]
    rows = talk.ask("But why? Say it in other words.")
    said = talk.tokenizer.decode(talk.prompt)
    assert rows == talk.new(said.rindex("[user]") + len("[user]"))
    held = talk.held(template)
    assert talk.ask("So?") == talk.new(held)


def test_an_answer_that_was_stopped(model):
    """Its tokens count; the next turn goes on behind them."""
    talk = Talk(model, STABLE)
    talk.ask("Once upon a time, far from here,", tokens=ANSWER, stop=7)
    held = talk.held("stable")
    assert talk.ask("Go on.") == talk.new(held)


def test_a_prompt_that_was_stopped(model):
    """Marks that were passed before it are there still."""
    talk = Talk(model, THINKING)
    talk.ask("Once upon a time, far from here,")
    talk.messages.append({"role": "user", "content": "And " * 30})
    ids = apply_template(talk.tokenizer, talk.messages)
    rest, stops = talk.cache.reuse(ids, marks(talk.tokenizer, talk.messages)), []

    def stop(done, total):
        if done >= 64:
            stops.append(len(ids) - len(rest) + done)
            raise KeyboardInterrupt

    rounds = decode(
        talk.pair, rest, prompt_cache=talk.cache, prefill_step_size=32, progress=stop
    )
    with pytest.raises(KeyboardInterrupt):
        next(rounds)
    assert talk.cache.tokens == ids[: stops[0]]
    assert talk.answer() == len(ids) - stops[0]


@pytest.mark.parametrize("kind", ("rotating", "hybrid"))
def test_snapshots_stay_within_their_budget(kind):
    talk = Talk(KINDS[kind](), THINKING)
    talk.ask("A long beginning. " * 3)
    one = talk.cache.snapshots[-1].nbytes
    talk.cache.snapshot_bytes = 4 * one
    for text in ("And?", "More!", "Why?", "How?"):
        talk.ask(text)
        assert sum(s.nbytes for s in talk.cache.snapshots) <= 4 * one
    # The first one stays, and the newest are there.
    rows = [snapshot.rows for snapshot in talk.cache.snapshots]
    assert rows[0] < 10 and rows[-1] == len(talk.prompt) - 1
    talk.cache.snapshot_bytes = 0
    talk.ask("Again?")
    assert not talk.cache.snapshots
    talk.messages = talk.messages[:2]
    assert talk.ask("From the start, please.") == len(talk.prompt)


def test_rows_written_over_come_back():
    """A bounded cache writes new rows over old ones, in place."""
    model, prompt = KINDS["growing"](), [5, 9, 11, 3] * 5
    pair = Pair.of(model)
    cache = PromptCache(pair, max_kv_size=28)
    told = prompt + run(pair, cache.reuse(prompt), 30, prompt_cache=cache) + [7]
    answers = []
    for new in (2, 1, 1):  # the last token and another, then that one
        rest = cache.reuse(told)
        assert rest == told[-new:]
        answers.append(run(pair, rest, 30, prompt_cache=cache))
    assert answers[0] == answers[1] == answers[2]


def test_layers_that_only_grow_need_no_snapshots():
    talk = Talk(KINDS["growing"](), THINKING)
    talk.ask("And?")
    talk.ask("Why?")
    assert talk.cache.snapshots == [] and not talk.cache.forgets


@pytest.mark.parametrize("kind", ("growing", "hybrid"))
def test_a_drafter_gets_back_what_its_window_dropped(kind):
    """Its context is that of a fresh run of the same prompt."""
    model, prompt = KINDS[kind](), [5, 9] * 200
    contexts = []
    for before in (True, False):
        pair = Pair.of(model, make_drafter(window=16))
        cache = PromptCache(pair)
        if before:
            first = prompt[:300] + [7] * 700
            run(pair, cache.reuse(first, (300,)), 4, prompt_cache=cache)
        rest = cache.reuse(prompt[:301])
        assert len(rest) == (1 if before else 301)
        run(pair, rest, 1, prompt_cache=cache)
        contexts.append((cache.drafter[0].positions(), *cache.drafter[0].fetch()))
    for ours, fresh in zip(*contexts, strict=True):
        assert mx.array_equal(ours, fresh)


def test_a_quantized_cache_is_not_cut_to_where_it_would_not_be_one():
    pair = Pair.of(KINDS["growing"]())
    cache, kv = PromptCache(pair), KVBits(bits=8, group_size=32, start=40)
    prompt = [5, 9] * 40
    run(pair, cache.reuse(prompt), 4, prompt_cache=cache, kv=kv)
    assert len(cache.reuse(prompt[:60] + [7])) == 1
    assert len(cache.reuse(prompt[:30] + [7])) == 31
