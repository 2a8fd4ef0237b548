"""Kept caches through the server: every answer is a new server's; bit for bit in the
families where blocks and single rows agree."""

import random

import pytest

from dflash_mlx import Pair
from dflash_mlx.server.events import Prefilled
from dflash_mlx.server.settings import Access, Decoding, Settings
from tests.equipment import architectures
from tests.equipment.live_server import LiveServer, data_of
from tests.equipment.tiny import make_drafter
from tests.equipment.turns import LETTERS, TEMPLATES, make_tokenizer
from tests.server.test_scheduler import is_idle, send, wait

PATH = "/v1/chat/completions"
STEP = 64  # rows of a chunk of the prefill
# Rows of every layer are kept; states beside rows; windows beside rows.
FAMILIES = ("qwen3", "qwen3_5", "gpt_oss")


def letters(count: int, seed: int) -> str:
    """A text of so many tokens."""
    return "".join(random.Random(seed).choices(LETTERS, k=count))


SHARED = {"role": "system", "content": letters(2500, 1)}
ONE, TWO = ({"role": "user", "content": letters(40, seed)} for seed in (2, 3))


class Twins:
    """A server that keeps its caches, and one that is made to forget them.

    Args:
        family: A family of tests/equipment/architectures.
        template: A key of TEMPLATES.
        eos: Tokens that end an answer.
    """

    def __init__(self, family, template="stable", eos=()):
        model = architectures.build(family)
        layers = len(model.layers)
        drafter = make_drafter(
            vocab_size=96,
            mask_token_id=95,
            num_target_layers=layers,
            target_layer_ids=(0, layers - 1),
        )
        pair, tokenizer = Pair.of(model, drafter), make_tokenizer(TEMPLATES[template])
        self.agree = pair.target.blocks_agree
        tokenizer.eos_token_ids = set(eos)
        settings = Settings(
            access=Access(port=0),
            # Widths that clocks choose differ, and so may last bits in some families.
            decoding=Decoding(prefill_step_size=STEP, block_size=4),
        )
        self.kept, self.fresh = (
            LiveServer(pair, tokenizer, settings) for _ in range(2)
        )

    def __enter__(self):
        self.kept.__enter__()
        self.fresh.__enter__()
        return self

    def __exit__(self, *error):
        self.fresh.__exit__(*error)
        self.kept.__exit__(*error)

    def expected(self, body):
        """The answer of a server without caches: text, reason, logprobs, usage."""
        self.fresh.models.loaded.prefixes.reset()
        return answer(self.fresh, body)

    def ask(self, *messages, **more):
        """Ask both, and compare; return the text, and the share of the prompt that was
        cached."""
        body = request(messages, **more)
        *got, usage = answer(self.kept, body)
        *wanted, new = self.expected(body)
        assert new["prompt_tokens_details"]["cached_tokens"] == 0
        assert usage["completion_tokens"] == new["completion_tokens"]
        check_equal(got, wanted, self.agree)
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        return got[0], cached / usage["prompt_tokens"]


def check_equal(got, wanted, bits):
    """Check that two answers are the same: their logprobs too, in every bit or nearly.

    Args:
        got, wanted: Text, finish reason, logprobs.
        bits: Rows of several passes agree in bits in this family.
    """
    assert got[:2] == wanted[:2]
    if bits:
        assert got[2] == wanted[2]
    for one, other in zip(got[2], wanted[2], strict=True):
        assert one["token"] == other["token"]
        assert one["logprob"] == pytest.approx(other["logprob"], abs=1e-4)


def request(messages, **more):
    """A chat request."""
    options = {"max_tokens": 12, "logprobs": True, "top_logprobs": 3}
    options |= {"stream_options": {"include_usage": True}}
    return {"messages": list(messages)} | options | more


def answer(server, body):
    """The text, finish reason, logprobs and usage of a streamed answer."""
    *chunks, last = data_of(server.frames(PATH, body))
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    text = "".join(choice["delta"].get("content", "") for choice in choices)
    logprobs = [each["logprobs"]["content"] for each in choices if each["logprobs"]]
    return text, choices[-1]["finish_reason"], sum(logprobs, []), last["usage"]


def said(text):
    return {"role": "assistant", "content": text}


@pytest.fixture(scope="module", params=FAMILIES)
def twins(request):
    with Twins(request.param) as found:
        yield found


def test_a_prompt_that_parts_after_a_long_start_changes_no_other(twins):
    a = [SHARED, ONE]
    b = [SHARED, said(letters(30, 4)), TWO]
    first, _ = twins.ask(*a)
    again, repeated = twins.ask(*a)
    other, _ = twins.ask(*b)
    _, shared = twins.ask(SHARED, TWO)
    answers = [twins.ask(*a) for _ in range(2)]
    assert [first, again] == [text for text, _ in answers] and other != first
    assert repeated > 0.99 and shared > 0.9
    assert all(cached > 0.9 for _, cached in answers)


def test_a_growing_conversation_computes_its_new_turn_only(twins):
    messages = [{"role": "system", "content": letters(3000, 5)}, ONE]
    for seed in range(3):
        text, cached = twins.ask(*messages)
        assert not seed or cached > 0.95
        question = {"role": "user", "content": letters(30, 10 + seed)}
        messages += [said(text), question]


def test_forks_edits_and_repeats(twins):
    text, _ = twins.ask(SHARED, ONE)
    turns = [SHARED, ONE, said(text), TWO]
    second, _ = twins.ask(*turns)
    twins.ask(*turns)  # generate again
    twins.ask(*turns, temperature=1, seed=7)
    twins.ask(SHARED, ONE, said(text), ONE)  # the last turn edited
    twins.ask(SHARED, TWO, said(text), TWO)  # a middle one
    _, cached = twins.ask(*turns, said(second), ONE)  # the first branch goes on
    assert cached > 0.9
    date = {"role": "system", "content": "2" + SHARED["content"][1:]}
    _, cached = twins.ask(date, ONE)  # its first line changed
    assert cached < 0.01
    twins.ask(ONE)
    twins.ask({"role": "user", "content": ""})
    _, cached = twins.ask(date, ONE, said("x"), TWO)
    assert cached > 0.9


def test_answers_that_end_at_a_limit_or_a_stop_string(twins):
    whole, _ = twins.ask(SHARED, TWO, max_tokens=20)
    for more in ({"max_tokens": 1}, {"max_tokens": 7}, {"stop": whole[6:9]}):
        text, _ = twins.ask(SHARED, TWO, **more)
        assert whole.startswith(text) and text != whole
        twins.ask(SHARED, TWO, said(text), ONE)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_that_ends_inside_a_block(family):
    body = request([ONE], max_tokens=40)
    with Twins(family) as twins:
        text, *_ = twins.expected(body)
    ends = {LETTERS.index(text[at]) for at in (5, 17)}
    with Twins(family, eos=ends) as twins:
        short, _ = twins.ask(ONE, max_tokens=40)
        assert text.startswith(short) and len(short) < 20
        _, cached = twins.ask(ONE, said(short), TWO, max_tokens=40)
        assert cached > 0.4
        twins.ask(ONE, max_tokens=40)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_reasoning_that_the_template_drops(family):
    with Twins(family, "thinking") as twins:
        messages = [SHARED, ONE]
        for seed in range(3):
            text, _ = twins.ask(*messages)
            messages += [said(f"{letters(9, seed)}</think>{text}"), TWO]
        _, cached = twins.ask(*messages)
        assert cached > 0.9


def test_a_prefill_that_is_cut_keeps_its_chunks(twins, monkeypatch):
    messages = [{"role": "system", "content": letters(2000, 20)}, ONE]
    done, submit = [], twins.kept.scheduler.submit

    def watched(job):
        inner = job.deliver

        def deliver(events):
            inner(events)
            done.extend(each.done for each in events if isinstance(each, Prefilled))
            if len(done) == 10:
                assert job.cancelled.wait(10)

        job.deliver = deliver
        submit(job)

    with monkeypatch.context() as patch:
        patch.setattr(twins.kept.scheduler, "submit", watched)
        with send(twins.kept, request(messages, stream=True)):
            wait(lambda: len(done) >= 10)
    wait(lambda: is_idle(twins.kept))
    assert len(done) == 10
    _, cached = twins.ask(*messages)
    assert cached * 2000 > done[-1] - STEP


@pytest.mark.full("server")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(4))
def test_any_order_of_conversations(family, seed):
    chance = random.Random(seed)
    with Twins(family, chance.choice(list(TEMPLATES))) as twins:
        known = [[SHARED, ONE], [SHARED, TWO], [ONE]]
        for _ in range(30):
            turns = chance.choice(known)
            more = chance.choice([{}, {"max_tokens": 1}, {"temperature": 1, "seed": 3}])
            text, _ = twins.ask(*turns, **more)
            question = {"role": "user", "content": letters(chance.randrange(99), 9)}
            if sum(len(turn["content"]) for turn in turns) < 3600:
                known.append([*turns, said(text), question])
            if len(turns) > 2 and chance.random() < 0.3:
                at = chance.randrange(1, len(turns))
                known.append([*turns[:at], question])
