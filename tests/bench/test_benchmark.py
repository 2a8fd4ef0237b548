"""The measurement: the order of answers, the grid, and differences from plain."""

from dataclasses import replace
from itertools import repeat

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from dflash_mlx import Pair, decode
from dflash_mlx.bench import results, shapes, suites
from dflash_mlx.bench.benchmark import Settings, contenders_of, measure
from dflash_mlx.bench.contenders import Answer, OwnEngine
from dflash_mlx.bench.pairs import open_pair, with_untrained_drafter
from dflash_mlx.bench.shapes import NamedShape
from dflash_mlx.bench.suites import Prompt
from dflash_mlx.bench.widen import DraftShape, Shape
from dflash_mlx.errors import DFlashError, OptionError, PromptError
from dflash_mlx.stats import PARKED, Stats
from dflash_mlx.terminal.benchmark_table import remarks, summary
from dflash_mlx.types import Round, Sampling
from tests.bench.conftest import QUICK


class FakeContender:
    """A contender that records its requests, and answers with given tokens."""

    def __init__(self, name, calls, tokens=(1, 2, 3, 4), must_match=True, speed=10.0):
        self.name, self.calls, self.texts = name, calls, repeat(list(tokens))
        self.must_match, self.speed = must_match, speed

    def answer(self, request):
        self.calls.append((self.name, request.text, request.max_tokens))
        tokens = next(self.texts)
        return Answer(tokens, len(tokens), 0.5, (len(tokens) - 1) / self.speed, 7)

    def must_match_plain(self, temp):
        return self.must_match


@pytest.mark.slow
def test_contenders_alternate_and_each_repeat_starts_with_another(tiny):
    calls, progress = [], []
    contenders = [FakeContender(name, calls) for name in ("plain", "auto")]
    prompts = [Prompt("chat", "one"), Prompt("code", "two"), Prompt("code", "three")]
    settings = Settings(max_tokens=9, repeats=3, warmup=5)
    runs = measure(
        *(contenders, prompts, settings, tiny[1], None),
        progress=lambda *done: progress.append(done),
    )
    warm_ups, rest = calls[:4], calls[4:]
    assert warm_ups == [
        ("plain", "one", 5),
        ("auto", "one", 5),
        ("plain", "two", 5),
        ("auto", "two", 5),
    ]
    forth, back = ["plain", "auto"], ["auto", "plain"]
    assert [name for name, *_ in rest] == forth * 3 + back * 3 + forth * 3
    texts = ["one"] * 2 + ["two"] * 2 + ["three"] * 2
    assert [text for _, text, _ in rest] == texts * 3
    assert {max_tokens for *_, max_tokens in rest} == {9}
    assert all(len(run.answers) == 3 for run in runs) and len(runs) == 6
    assert progress[0][:2] == (0, 22) and progress[-1][:2] == (22, 22)


def test_temperatures_and_contexts_make_a_grid(tiny):
    settings = Settings((0, 0.6), (0, 200), max_tokens=4, repeats=1, warmup=0, seed=5)
    prompts = [Prompt("chat", "one")]
    runs = measure([FakeContender("plain", [])], prompts, settings, tiny[1], None)
    assert [(run.temp, run.context) for run in runs] == [
        (0, 0),
        (0.6, 0),
        (0, 200),
        (0.6, 200),
    ]
    assert runs[1].request.sampling == Sampling(temp=0.6, seed=5)
    assert len(runs[2].request.ids) > 195 > len(runs[0].request.ids)
    assert len(results.rows_of(runs)) == 4


def test_a_prompt_that_does_not_fit_is_refused_before_any_answer(tiny):
    pair, tokenizer = tiny
    calls = []
    settings = Settings(contexts=(0, 8190), max_tokens=100)
    contenders, prompts = [FakeContender("plain", calls)], [Prompt("chat", "x")]
    with pytest.raises(PromptError, match="8192"):
        measure(contenders, prompts, settings, tokenizer, pair)
    assert not calls


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"repeats": 0}, "--repeats"),
        ({"max_tokens": 1}, "--max-tokens"),
        ({"warmup": -1}, "--warmup"),
        ({"contexts": (-1,)}, "--contexts"),
        ({"temps": ()}, "--temps"),
        ({"temps": (0.0, -1.0)}, "temp must be"),
    ],
)
def test_settings_out_of_range(wrong, words):
    with pytest.raises(OptionError, match=words):
        Settings(**wrong)


@pytest.mark.slow
def test_a_real_run(rows):
    by_name = {(row.kind, row.contender): row for row in rows}
    assert len(rows) == 8
    for row in rows:
        assert row.prompts == 1 and row.compared and not row.differences
        speed = row.tokens_per_second
        assert 0 < speed.least <= speed.low <= speed.median <= speed.high <= speed.most
        assert row.first_token.least > 0 and row.peak > 1e6
    for kind in ("exercises", "random"):
        plain, auto = by_name[kind, "plain"], by_name[kind, "auto"]
        assert plain.engine == "plain" and plain.tokens_per_round == 1
        assert plain.rounds_by_width == {1: 2 * 23} and plain.of_plain is None
        assert auto.of_plain > 0 and auto.worst <= auto.of_plain
        assert auto.of_best_width > 0
        assert set(by_name[kind, "4"].rounds_by_width) <= {1, 2, 3, 4}
        assert by_name[kind, "4"].engine == "dflash 4"
        assert len(by_name[kind, "4"].acceptance) == 3
        stock = by_name[kind, "mlx-lm"]
        assert stock.engine == "mlx-lm" and stock.tokens_per_round is None
        assert stock.of_plain > 0 and not stock.acceptance
    easy, hard = by_name["exercises", "4"], by_name["random", "4"]
    assert easy.tokens_per_round > 2.5 > hard.tokens_per_round >= 1
    assert easy.acceptance[0] > 0.7


@pytest.mark.slow
def test_sampled_texts_equal_plain_decoding_with_the_same_seed(tiny):
    pair, tokenizer = tiny
    prompts = suites.builtin(tokenizer, ("exercises",), samples=1)
    contenders = contenders_of(pair, tokenizer, (4,), mlx_lm=True)
    settings = replace(QUICK, temps=(0.8,), repeats=1, warmup=0, seed=3)
    plain, drafted, stock = results.rows_of(
        measure(contenders, prompts, settings, tokenizer, pair)
    )
    assert plain.compared and drafted.compared and not drafted.differences
    assert not stock.compared and remarks(stock) in ("", "1 of 1 too short")


@pytest.mark.slow
def test_an_engine_without_drafted_rounds_is_not_called_dflash(tiny):
    pair, tokenizer = tiny
    alone = Pair.of(pair.model, None, pair.target.config, "no drafter is known")
    prompts = suites.builtin(tokenizer, ("exercises",), samples=1)
    contenders = contenders_of(alone, tokenizer, (None,))
    found = results.rows_of(measure(contenders, prompts, QUICK, tokenizer, alone))
    assert [row.engine for row in found] == ["plain", "plain (no drafter is known)"]
    assert summary(found)[-1].startswith("No round was drafted")

    stats = Stats("dflash")  # a wrong label
    stats.count(Round([1], 0, 0, 0), 0.1)
    stats.count(Round([2], 0, 0, 1), 0.1)
    assert results.engine_label("auto", stats) == "plain (parked)"
    parked = Stats("plain", PARKED)
    assert results.engine_label("auto", parked) == f"plain ({PARKED})"
    lookup = Stats()
    lookup.count(Round([3], 3, 0, 4, "lookup"), 0.1)
    assert results.engine_label("auto", lookup) == "lookup auto"
    drafted = Stats()
    drafted.count(Round([3], 3, 0, 4, "drafter"), 0.1)
    # The label does not depend on the order of the answers.
    for order in ([parked, lookup, drafted], [drafted, lookup, parked]):
        assert results.engine_label("8", results.pool_stats(order)) == "dflash 8"
    assert results.pool_stats([parked, lookup]).engine == "lookup"
    # An answer without a drafted round does not determine it.
    both = results.pool_stats([stats, lookup])
    assert results.engine_label("8", both) == "lookup 8"


@pytest.mark.slow
def test_a_difference_is_found_with_its_margin(tiny):
    pair, tokenizer = tiny
    prompt = Prompt("chat", "Count from 1 to 30.")
    ids = suites.prompt_ids(tokenizer, prompt, {})
    rounds = list(decode(pair, ids, max_tokens=12, speculate=False))
    tokens = [token for round in rounds for token in round.tokens]
    wrong = [*tokens[:7], tokens[7] + 1, *tokens[8:]]
    plain = OwnEngine(pair, tokenizer, "plain", speculate=False)
    contenders = [plain, FakeContender("8", [], wrong)]
    settings = replace(QUICK, max_tokens=12, warmup=0)
    runs = measure(contenders, [prompt], settings, tokenizer, pair)
    second, best = mx.sort(rounds[7].logits[0].astype(mx.float32))[-2:].tolist()
    assert runs[0].difference is None
    assert (runs[1].difference.at, runs[1].difference.margin) == (7, best - second)
    assert runs[1].difference.near_tie == (best - second <= 2e-2 * abs(best))
    row = results.rows_of(runs)[1]
    assert "at token 7, margin" in remarks(row)
    # A sampled token has no margin.
    sampled = replace(settings, temps=(1.0,))
    runs = measure(contenders, [prompt], sampled, tokenizer, pair)
    assert runs[1].difference.margin is None
    # The earliest difference of all repeats is reported.
    contenders[1].texts = iter([wrong, [*tokens[:3], tokens[3] + 1]])
    runs = measure(contenders, [prompt], settings, tokenizer, pair)
    assert runs[1].difference.at == 3
    # A contender that may differ is not compared.
    contenders[1] = FakeContender("8", [], wrong, must_match=False)
    assert not measure(contenders, [prompt], settings, tokenizer, pair)[1].compared


@pytest.mark.slow
def test_answers_to_random_prompts_have_max_tokens(tiny):
    pair, tokenizer = tiny
    settings = replace(QUICK, max_tokens=40, repeats=1, warmup=0)
    prompts = [suites.random_prompt(tokenizer, 1), Prompt("chat", "Hello!")]
    contenders = contenders_of(pair, tokenizer, (None,), mlx_lm=True)
    runs = measure(contenders, prompts, settings, tokenizer, pair)
    assert [run.answers[0].count == 40 for run in runs] == [True] * 3 + [False] * 3


@pytest.mark.slow
def test_an_untrained_drafter_is_rarely_right_and_changes_no_text(tiny):
    pair, tokenizer = open_pair("tiny", "untrained", seed=4)
    again = with_untrained_drafter(tiny[0], 4)
    weight = pair.drafter.layers[0].mlp.up_proj.weight
    assert mx.array_equal(weight, again.drafter.layers[0].mlp.up_proj.weight)
    assert pair.drafter.dtype == tiny[0].drafter.dtype
    prompts = suites.builtin(tokenizer, ("exercises",), samples=1)
    contenders = contenders_of(pair, tokenizer, (8,))
    plain, drafted = results.rows_of(
        measure(contenders, prompts, QUICK, tokenizer, pair)
    )
    assert drafted.engine == "dflash 8" and drafted.tokens_per_round < 1.3
    assert not drafted.differences
    alone = Pair.of(tiny[0].model, None, None, "drafting is off")
    with pytest.raises(DFlashError, match="drafting is off"):
        with_untrained_drafter(alone)


@pytest.mark.full("programs")
def test_a_shape_is_measured(monkeypatch):
    small = Shape(512, 1536, 16, 4, 64, 8, 8000)
    shape = NamedShape("small", small, DraftShape(2, 3), dtype="float32")
    monkeypatch.setitem(shapes.named_shapes(), "small", shape)
    pair, tokenizer = open_pair(draft="untrained", shape="small")
    prompts = suites.builtin(tokenizer, ("exercises",), samples=1)
    settings = Settings(max_tokens=3, repeats=1, warmup=0)
    contenders = contenders_of(pair, tokenizer, (8,))
    rows = results.rows_of(measure(contenders, prompts, settings, tokenizer, pair))
    assert rows[1].engine == "dflash 8" and rows[1].tokens_per_round < 2
    assert not rows[1].differences
    weights = sum(array.nbytes for _, array in tree_flatten(pair.model.parameters()))
    assert rows[0].peak > weights > 1e8
