"""Kept caches through the server: every answer is the one of a server without caches.

Row by row, both compute the same numbers: text and logprobs are equal bit for bit, but
where a window keeps its rows in another order. In chunks and blocks, whose sizes depend
on what is cached, logprobs differ in their last bits.
"""

import json
import random
import re
from functools import cache

import pytest

from dflash_mlx import Pair
from dflash_mlx.server.events import Prefilled
from dflash_mlx.server.settings import Access, Decoding, Settings
from tests.equipment import architectures
from tests.equipment.live_server import LiveServer, data_of
from tests.equipment.tiny import make_drafter
from tests.equipment.turns import LETTERS, TEMPLATES, make_tokenizer
from tests.server.test_scheduler import is_idle, send, wait

pytestmark = pytest.mark.slow
PATH = "/v1/chat/completions"
STEP = 256  # rows of a chunk of the prefill
CUT = 4  # chunks after which a prefill is cut
# Rows of every layer are kept; states beside rows; windows beside rows.
FAMILIES = ("qwen3", "qwen3_5", "gpt_oss")


def letters(count: int, seed: int) -> str:
    """A text of so many tokens."""
    return "".join(random.Random(seed).choices(LETTERS, k=count))


def system(count: int, seed: int = 1) -> dict:
    return {"role": "system", "content": letters(count, seed)}


def user(seed: int) -> dict:
    return {"role": "user", "content": letters(40, seed)}


def said(text: str) -> dict:
    return {"role": "assistant", "content": text}


ONE, TWO, SHARED = user(2), user(3), system(160)


class Twins:
    """A server that keeps its caches, and one that is made to forget them.

    Args:
        family: A family of tests/equipment/architectures.
        template: A key of TEMPLATES.
        eos: Tokens that end an answer.
        exact: Compute row by row, without drafts.
    """

    def __init__(self, family, template="stable", eos=(), exact=False):
        model = architectures.build(family)
        layers = len(model.layers)
        drafter = make_drafter(
            vocab_size=96,
            mask_token_id=95,
            num_target_layers=layers,
            target_layer_ids=(0, layers - 1),
        )
        pair, tokenizer = Pair.of(model, drafter), make_tokenizer(TEMPLATES[template])
        tokenizer.eos_token_ids = set(eos)
        step = 1 if exact else STEP
        decoding = Decoding(prefill_step_size=step, speculate=not exact)
        settings = Settings(access=Access(port=0), decoding=decoding)
        self.kept, self.fresh = (LiveServer(pair, tokenizer, settings) for _ in "ab")
        self.family, self.exact = family, exact
        self.expected = cache(self._expected)

    def __enter__(self):
        self.kept.__enter__()
        self.fresh.__enter__()
        return self

    def __exit__(self, *error):
        self.fresh.__exit__(*error)
        self.kept.__exit__(*error)

    def _expected(self, body):
        """The answer of the server without caches."""
        self.fresh.models.loaded.prefixes.reset()
        return answer(self.fresh, json.loads(body))

    def ask(self, *messages, **more):
        """Ask both, and compare; return the text, and the number of prompt tokens that
        were computed."""
        body = request(messages, **more)
        *got, logprobs, usage = answer(self.kept, body)
        *wanted, other, new = self.expected(json.dumps(body))
        assert got == wanted
        assert usage["completion_tokens"] == new["completion_tokens"]
        assert cached(new) == 0
        if self.exact:
            assert logprobs == other
        else:
            close = pytest.approx([each["logprob"] for each in other], abs=1e-4)
            assert [each["logprob"] for each in logprobs] == close
        return got[0], usage["prompt_tokens"] - cached(usage)


def cached(usage):
    return usage["prompt_tokens_details"]["cached_tokens"]


def request(messages, **more):
    """A chat request."""
    options = {"max_tokens": 12, "logprobs": True, "top_logprobs": 3}
    options |= {"stream_options": {"include_usage": True}}
    return {"messages": list(messages)} | options | more


def answer(server, body):
    """The text with its reasoning, finish reason, logprobs and usage of a streamed
    answer."""
    *chunks, last = data_of(server.frames(PATH, body))
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    names = ("reasoning_content", "content")
    text = "".join(each["delta"].get(name, "") for each in choices for name in names)
    logprobs = [each["logprobs"]["content"] for each in choices if each["logprobs"]]
    return text, choices[-1]["finish_reason"], sum(logprobs, []), last["usage"]


@pytest.fixture(scope="module", params=FAMILIES)
def twins(request):
    with Twins(request.param) as found:
        yield found


def check_alternation(twins, start):
    """Ask A, A, B, A, A, whose starts are the same, and go on with A."""
    a, b = [start, ONE], [start, said(letters(30, 4)), TWO]
    first, _ = twins.ask(*a)
    again, repeated = twins.ask(*a)
    other, shared = twins.ask(*b)
    answers = [twins.ask(*a) for _ in range(2)]
    assert [first, again] == [text for text, _ in answers] and other != first
    # Where rows cannot be cut, B leaves the snapshot to which the next ones return.
    assert repeated <= 4 and (shared < 130 or twins.family != "qwen3")
    assert all(computed < 130 for _, computed in answers)
    _, computed = twins.ask(*a, said(first), TWO)
    assert computed < 130


def test_a_prompt_that_parts_after_a_long_start_changes_no_other(twins):
    check_alternation(twins, SHARED)


@pytest.mark.parametrize("family", FAMILIES[:1])
def test_row_by_row_all_bits_are_the_same(family):
    with Twins(family, exact=True) as twins:
        check_alternation(twins, SHARED)


@pytest.mark.full("server")
@pytest.mark.parametrize("family", FAMILIES)
def test_thousands_of_tokens(family):
    with Twins(family) as twins:
        check_alternation(twins, system(2600))


def test_forks_edits_and_repeats(twins):
    text, _ = twins.ask(SHARED, ONE)
    turns = [SHARED, ONE, said(text), TWO]
    second, computed = twins.ask(*turns)
    assert computed < 60
    _, computed = twins.ask(*turns)  # generate again
    assert computed <= 4
    twins.ask(*turns, temperature=1, seed=7)
    twins.ask(SHARED, ONE, said(text), ONE)  # the last turn edited
    twins.ask(SHARED, TWO, said(text), TWO)  # a middle one
    twins.ask(*turns, said(second), ONE)  # the first branch goes on
    date = {"role": "system", "content": "2" + SHARED["content"][1:]}
    _, computed = twins.ask(date, ONE)  # its first character changed
    assert computed > 190
    twins.ask({"role": "user", "content": ""})
    _, computed = twins.ask(date, ONE, said("x"), TWO)
    assert computed < 60


def test_answers_that_end_at_a_limit_or_a_stop_string(twins):
    whole, _ = twins.ask(SHARED, TWO, max_tokens=20)
    for more in ({"max_tokens": 1}, {"max_tokens": 7}, {"stop": whole[6:9]}):
        text, _ = twins.ask(SHARED, TWO, **more)
        assert whole.startswith(text) and text != whole
        twins.ask(SHARED, TWO, said(text), ONE)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_that_ends_inside_a_block(family):
    with Twins(family) as twins:
        text, _ = twins.ask(ONE, max_tokens=40)
    characters = re.sub("<[^>]*>", "", text)
    ends = {LETTERS.index(characters[at]) for at in (5, 12)}
    with Twins(family, eos=ends) as twins:
        short, _ = twins.ask(ONE, max_tokens=40)
        assert text.startswith(short) and len(short) < len(text) / 2
        _, computed = twins.ask(ONE, said(short), TWO, max_tokens=40)
        assert computed < 60
        twins.ask(ONE, max_tokens=40)


@pytest.mark.parametrize("family", FAMILIES[1:2])
def test_reasoning_that_the_template_drops(family):
    with Twins(family, "thinking") as twins:
        messages = [SHARED, ONE]
        for seed in range(3):
            text, _ = twins.ask(*messages)
            messages += [said(f"{letters(9, seed)}</think>{text}"), TWO]
        _, computed = twins.ask(*messages)
        assert computed < 130


@pytest.mark.parametrize("family", FAMILIES[:2])
def test_a_prefill_that_is_cut_keeps_its_chunks(family, monkeypatch):
    messages, done = [system(2000), ONE], []

    def watched(job):
        inner = job.deliver

        def deliver(events):
            inner(events)
            done.extend(each.done for each in events if isinstance(each, Prefilled))
            if len(done) == CUT:
                assert job.cancelled.wait(10)

        job.deliver = deliver
        submit(job)

    with Twins(family) as twins:
        submit = twins.kept.scheduler.submit
        with monkeypatch.context() as patch:
            patch.setattr(twins.kept.scheduler, "submit", watched)
            with send(twins.kept, request(messages, stream=True)):
                wait(lambda: len(done) >= CUT)
        wait(lambda: is_idle(twins.kept))
        assert len(done) == CUT and done[-1] >= (CUT - 1) * STEP
        _, computed = twins.ask(*messages)
        assert computed <= 2050 - done[-1] + STEP


@pytest.mark.full("server")
@pytest.mark.parametrize(
    "family, exact",
    [*((f, False) for f in FAMILIES), *((f, True) for f in FAMILIES[:2])],
)
def test_any_order_of_conversations(family, exact):
    for seed, template in enumerate(TEMPLATES):
        chance = random.Random(seed)
        with Twins(family, template, exact=exact) as twins:
            known = [[SHARED, ONE], [SHARED, TWO], [ONE]]
            for _ in range(25):
                turns = chance.choice(known)
                options = ({}, {"max_tokens": 1}, {"temperature": 1, "seed": 3})
                text, _ = twins.ask(*turns, **chance.choice(options))
                if len(turns) < 9:
                    known.append([*turns, said(text), user(chance.randrange(99))])
                if len(turns) > 2 and chance.random() < 0.3:
                    known.append([*turns[: chance.randrange(1, len(turns))], TWO])
