"""The benchmark: what is asked, who is asked when, and what the figures say."""

import json
import math
import sys
from dataclasses import replace
from itertools import repeat

import mlx.core as mx
import pytest

from dflash_mlx import Pair, decode, load
from dflash_mlx.bench import (
    benchmark,
    plot,
    results,
    suites,
)
from dflash_mlx.bench.benchmark import Settings, contenders_of, measure
from dflash_mlx.bench.contenders import Answer, Ours, Request
from dflash_mlx.bench.pairs import open_pair, untrained
from dflash_mlx.bench.suites import Prompt
from dflash_mlx.errors import (
    DFlashError,
    MissingPackageError,
    OptionError,
    PromptError,
)
from dflash_mlx.stats import PARKED, Stats
from dflash_mlx.terminal.benchmark_table import remarks, summary
from dflash_mlx.types import Round, Sampling
from tests.equipment.program import program

QUICK = Settings(max_tokens=24, repeats=2, warmup=4)


@pytest.fixture(scope="module")
def tiny():
    return load("tiny")


@pytest.fixture(scope="module")
def rows(tiny):
    """A real run, small: two classes, plain, auto, a fixed width, stock mlx-lm."""
    pair, tokenizer = tiny
    prompts = suites.builtin(tokenizer, ("exercises", "random"), samples=1)
    rivals = contenders_of(pair, tokenizer, (None, 4), mlx_lm=True)
    settings = replace(QUICK, endless=True)
    return results.rows_of(measure(rivals, prompts, settings, tokenizer, pair))


class Fake:
    """A contender that notes when it was asked, and says what it was told to."""

    def __init__(self, name, calls, tokens=(1, 2, 3, 4), follows=True, speed=10.0):
        self.name, self.calls, self.texts = name, calls, repeat(list(tokens))
        self.following, self.speed = follows, speed

    def answer(self, request):
        self.calls.append((self.name, request.text, request.max_tokens))
        tokens = next(self.texts)
        return Answer(tokens, len(tokens), 0.5, (len(tokens) - 1) / self.speed, 7)

    def follows(self, temp):
        return self.following


def test_everyone_is_asked_in_turn_and_begins_in_turn(tiny):
    calls, told = [], []
    rivals = [Fake(name, calls) for name in ("plain", "auto")]
    prompts = [Prompt("chat", "one"), Prompt("code", "two"), Prompt("code", "three")]
    settings = Settings(max_tokens=9, repeats=3, warmup=5)
    runs = measure(
        rivals, prompts, settings, tiny[1], None, lambda *done: told.append(done)
    )
    warm, rest = calls[:4], calls[4:]
    assert warm == [
        ("plain", "one", 5),
        ("auto", "one", 5),
        ("plain", "two", 5),
        ("auto", "two", 5),
    ]
    forth, back = ["plain", "auto"], ["auto", "plain"]
    assert [name for name, *_ in rest] == forth * 3 + back * 3 + forth * 3
    assert [text for _, text, _ in rest] == ["one"] * 2 + ["two"] * 2 + [
        "three"
    ] * 2 + ["one"] * 2 + ["two"] * 2 + ["three"] * 2 + ["one"] * 2 + ["two"] * 2 + [
        "three"
    ] * 2
    assert {most for *_, most in rest} == {9}
    assert all(len(run.answers) == 3 for run in runs) and len(runs) == 6
    assert told[0][:2] == (0, 22) and told[-1][:2] == (22, 22)


def test_temperatures_and_contexts_make_a_grid(tiny):
    calls = []
    settings = Settings((0, 0.6), (0, 200), max_tokens=4, repeats=1, warmup=0, seed=5)
    prompts = [Prompt("chat", "one")]
    runs = measure([Fake("plain", calls)], prompts, settings, tiny[1], None)
    assert [(run.temp, run.context) for run in runs] == [
        (0, 0),
        (0.6, 0),
        (0, 200),
        (0.6, 200),
    ]
    assert runs[1].request.sampling == Sampling(temp=0.6, seed=5)
    assert len(runs[2].request.ids) > 195 > len(runs[0].request.ids)
    assert len(results.rows_of(runs)) == 4


def test_a_prompt_that_leaves_no_room_is_refused_before_anything_runs(tiny):
    pair, tokenizer = tiny
    calls = []
    settings = Settings(contexts=(0, 8190), max_tokens=100)
    with pytest.raises(PromptError, match="8192"):
        measure(
            [Fake("plain", calls)], [Prompt("chat", "x")], settings, tokenizer, pair
        )
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


def test_a_real_run(rows):
    by_name = {(row.kind, row.contender): row for row in rows}
    assert len(rows) == 8
    for row in rows:
        assert row.prompts == 1 and row.compared and not row.differences
        told = row.tokens_per_second
        assert 0 < told.least <= told.low <= told.median <= told.high <= told.most
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


def test_sampled_texts_are_plain_decodings_with_the_same_seed(tiny):
    pair, tokenizer = tiny
    prompts = suites.builtin(tokenizer, ("exercises",), samples=1)
    rivals = contenders_of(pair, tokenizer, (4,), mlx_lm=True)
    settings = replace(QUICK, temps=(0.8,), repeats=1, warmup=0, seed=3)
    plain, drafted, stock = results.rows_of(
        measure(rivals, prompts, settings, tokenizer, pair)
    )
    assert plain.compared and drafted.compared and not drafted.differences
    assert not stock.compared and remarks(stock) in ("", "1 of 1 short")


def test_no_drafted_round_is_called_dflash(tiny):
    pair, tokenizer = tiny
    alone = Pair.of(pair.model, None, pair.target.config, "no drafter is known")
    prompts = suites.builtin(tokenizer, ("exercises",), samples=1)
    rivals = contenders_of(alone, tokenizer, (None,))
    found = results.rows_of(measure(rivals, prompts, QUICK, tokenizer, alone))
    assert [row.engine for row in found] == ["plain", "plain (no drafter is known)"]
    assert summary(found)[-1].startswith("no round was drafted")

    stats = Stats("dflash")  # as a wrong label would have it
    stats.count(Round([1], 0, 0, 0), 0.1)
    stats.count(Round([2], 0, 0, 1), 0.1)
    assert results.engine_of("auto", stats) == "plain (parked)"
    parked = Stats("plain", PARKED)
    assert results.engine_of("auto", parked) == f"plain ({PARKED})"
    found = Stats()
    found.count(Round([3], 3, 0, 4, "lookup"), 0.1)
    assert results.engine_of("auto", found) == "lookup auto"
    drafted = Stats()
    drafted.count(Round([3], 3, 0, 4, "drafter"), 0.1)
    # The answer that did most speaks for all, wherever it stands.
    for order in ([parked, found, drafted], [drafted, found, parked]):
        assert results.engine_of("8", results.pooled(order)) == "dflash 8"
    assert results.pooled([parked, found]).engine == "lookup"
    # One without a drafted round never does.
    both = results.pooled([stats, found])
    assert results.engine_of("8", both) == "lookup 8"


def test_a_difference_is_found_with_its_margin(tiny):
    pair, tokenizer = tiny
    prompt = Prompt("chat", "Count from 1 to 30.")
    ids = suites.ids_of(tokenizer, prompt, {})
    rounds = list(decode(pair, ids, max_tokens=12, speculate=False))
    words = [token for round in rounds for token in round.tokens]
    wrong = [*words[:7], words[7] + 1, *words[8:]]
    rivals = [Ours(pair, tokenizer, "plain", speculate=False), Fake("8", [], wrong)]
    settings = replace(QUICK, max_tokens=12, warmup=0)
    runs = measure(rivals, [prompt], settings, tokenizer, pair)
    second, best = mx.sort(rounds[7].logits[0].astype(mx.float32))[-2:].tolist()
    assert runs[0].difference is None
    assert (runs[1].difference.at, runs[1].difference.margin) == (7, best - second)
    assert runs[1].difference.near_tie == (best - second <= 2e-2 * abs(best))
    row = results.rows_of(runs)[1]
    assert "at token 7, margin" in remarks(row)
    # Noise chose: the logits' margin would say nothing.
    sampled = replace(settings, temps=(1.0,))
    runs = measure(rivals, [prompt], sampled, tokenizer, pair)
    assert runs[1].difference.margin is None
    # The earliest of all repeats counts.
    rivals[1].texts = iter([wrong, [*words[:3], words[3] + 1]])
    runs = measure(rivals, [prompt], settings, tokenizer, pair)
    assert runs[1].difference.at == 3
    # One who needs not follow is not compared.
    rivals[1] = Fake("8", [], wrong, follows=False)
    assert not measure(rivals, [prompt], settings, tokenizer, pair)[1].compared


def runs_of(name, kind, speeds, prompt="x", tokens=tuple(range(40))):
    """A contender's run with made-up speeds, one a repeat."""
    request = Request([1], prompt, 40, Sampling())
    answers = [
        Answer(list(tokens), len(tokens), 0.2, (len(tokens) - 1) / speed, 5)
        for speed in speeds
    ]
    return benchmark.Run(Prompt(kind, prompt), name, 0, 0, request, True, answers)


def test_medians_ratios_and_the_worst():
    runs = [
        runs_of("plain", "chat", (10, 20, 30), "a"),
        runs_of("auto", "chat", (10, 10, 40), "a"),
        runs_of("4", "chat", (40, 40, 40), "a"),
        runs_of("plain", "chat", (10, 10, 10), "b"),
        runs_of("auto", "chat", (30, 40, 20), "b"),
        runs_of("4", "chat", (20, 20, 20), "b"),
        runs_of("plain", "code", (10, 10, 10), "c"),
        runs_of("auto", "code", (11, 11, 11), "c"),
        runs_of("4", "code", (5, 5, 5), "c"),
    ]
    found = {(row.kind, row.contender): row for row in results.rows_of(runs)}
    chat = found["chat", "auto"]
    # Each repeat's median prompt: 20, 25, 30.
    told = chat.tokens_per_second
    assert (told.least, told.median, told.most) == pytest.approx((20, 25, 30))
    assert (told.low, told.high) == pytest.approx((22.5, 27.5))
    # 10 of 20, and 30 of 10.
    assert chat.of_plain == pytest.approx(1.75)
    assert (chat.worst, chat.worst_prompt) == (pytest.approx(0.5), "a")
    assert chat.of_best_width == pytest.approx((10 / 40 + 30 / 20) / 2)
    assert found["code", "auto"].of_best_width == pytest.approx(2.2)
    assert summary(list(found.values())) == [
        "worst: code 1.10 of plain (auto)",
        "worst: code 0.50 of plain (4)",
        "auto against the best fixed width: 0.88 at worst (chat)",
        "no round was drafted: these are figures of plain decoding",
    ]


def test_the_worst_prompt_and_the_highest_peak_stand_anywhere():
    runs = [
        runs_of(name, "chat", (speed,), prompt)
        for prompt, speeds in (("a", (10, 20)), ("b", (10, 5)), ("c", (10, 30)))
        for name, speed in zip(("plain", "auto"), speeds, strict=True)
    ]
    runs[3].answers[0] = replace(runs[3].answers[0], peak=9)
    auto = results.rows_of(runs)[1]
    assert (auto.worst, auto.worst_prompt) == (pytest.approx(0.5), "b")
    assert auto.peak == 9 and auto.of_plain == pytest.approx(2.0)


def test_auto_is_held_against_the_best_of_the_fixed_widths():
    speeds = {"plain": 10, "auto": 24, "2": 20, "4": 30, "8": 5}
    runs = [runs_of(name, "chat", (speed,)) for name, speed in speeds.items()]
    auto = results.rows_of(runs)[1]
    assert auto.of_best_width == pytest.approx(24 / 30)


def test_random_prompts_are_answered_to_the_end(tiny):
    pair, tokenizer = tiny
    settings = replace(QUICK, max_tokens=40, repeats=1, warmup=0)
    prompts = [suites.scrambled(tokenizer, 1), Prompt("chat", "Hello!")]
    rivals = contenders_of(pair, tokenizer, (None,), mlx_lm=True)
    runs = measure(rivals, prompts, settings, tokenizer, pair)
    assert [run.answers[0].count == 40 for run in runs] == [True] * 3 + [False] * 3


def test_a_single_token_has_no_speed():
    assert Answer([1], 1, 0.1, 0.0).speed is None
    runs = [
        runs_of("plain", "chat", (10,), tokens=(1,)),
        runs_of("auto", "chat", (10,), tokens=(1,)),
    ]
    row = results.rows_of(runs)[1]
    assert row.tokens_per_second is None and row.of_plain is None and row.short == 1
    assert "1 of 1 short" in remarks(row)


@pytest.mark.parametrize(
    ("tokens", "loops"),
    [
        (list(range(100)), False),
        ([7] * 64, True),
        ([7] * 63, False),
        (list(range(100)) + [1, 2, 3, 4, 5, 6, 7, 8] * 8, True),
        (list(range(100)) + [1, 2, 3, 4, 5, 6, 7, 8, 9] * 8, False),
        (list(range(20)) * 6, True),
        ([*range(100), *[5] * 60, 1, 2], False),
    ],
)
def test_loops_are_seen(tokens, loops):
    assert results.repeats_itself(tokens) == loops


def test_drift_of_plain_is_said():
    steady = [runs_of("plain", "chat", (10, 30, 10.5)), runs_of("4", "chat", (10, 1))]
    assert results.drift(steady) == pytest.approx(0.05)
    assert results.drift_warning(results.drift(steady)) == []
    warm = [runs_of("plain", "chat", (10, 9, 8))]
    assert "-20%" in results.drift_warning(results.drift(warm))[0]
    assert results.drift([runs_of("plain", "chat", (10,))]) is None
    assert results.drift_warning(None) == []


def test_an_untrained_drafter_is_the_worst_and_says_the_same(tiny):
    pair, tokenizer = open_pair("tiny", "untrained", seed=4)
    again = untrained(tiny[0], 4)
    weight = pair.drafter.layers[0].mlp.up_proj.weight
    assert mx.array_equal(weight, again.drafter.layers[0].mlp.up_proj.weight)
    assert pair.drafter.dtype == tiny[0].drafter.dtype
    prompts = suites.builtin(tokenizer, ("exercises",), samples=1)
    rivals = contenders_of(pair, tokenizer, (8,))
    plain, drafted = results.rows_of(measure(rivals, prompts, QUICK, tokenizer, pair))
    assert drafted.engine == "dflash 8" and drafted.tokens_per_round < 1.3
    assert not drafted.differences
    alone = Pair.of(tiny[0].model, None, None, "drafting is off")
    with pytest.raises(DFlashError, match="drafting is off"):
        untrained(alone)


@pytest.mark.slow
def test_a_shape_is_measured():
    pair, tokenizer = open_pair(draft="untrained", shape="race")
    prompts = suites.builtin(tokenizer, ("exercises",), samples=1)
    settings = Settings(max_tokens=3, repeats=1, warmup=0)
    rivals = contenders_of(pair, tokenizer, (8,))
    rows = results.rows_of(measure(rivals, prompts, settings, tokenizer, pair))
    assert rows[1].engine == "dflash 8" and rows[1].tokens_per_round < 2
    assert not rows[1].differences
    assert rows[0].peak > 7e8  # 188 million float32 parameters


def test_the_command_prints_one_json_line(tmp_path):
    log = tmp_path / "log.jsonl"
    run = program(
        *("benchmark", "--classes", "exercises,random", "--samples", "1"),
        *("--repeats", "2", "--max-tokens", "20", "--warmup", "2"),
        *("--block-sizes", "auto,4", "--json", "--jsonl", str(log)),
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("\n") == 1 and log.read_text() == run.stdout
    told = json.loads(run.stdout)
    assert told["machine"]["mlx"] and told["machine"]["processor"]
    assert told["settings"]["settings"]["repeats"] == 2
    assert told["settings"]["block_sizes"] == [None, 4]
    kinds = [(row["kind"], row["contender"]) for row in told["rows"]]
    names = ("plain", "auto", "4")
    assert kinds == [(k, c) for k in ("exercises", "random") for c in names]
    assert len(told["prompts"]) == 6
    assert all(len(each["tokens_per_second"]) == 2 for each in told["prompts"])
    assert told["prompts"][1]["stats"][0]["rounds"] > 0


def test_the_command_prints_a_table():
    run = program(
        *("benchmark", "--classes", "exercises", "--samples", "1", "--repeats", "1"),
        *("--max-tokens", "20", "--warmup", "0", "--block-sizes", "4", "--temps"),
        *("0,0.5", "--mlx-lm"),
    )
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert lines[0].startswith("tiny on ")
    heads = next(line for line in lines if "tokens/s" in line)
    assert "of plain" in heads and " T " in heads and "context" not in heads
    cells = [line.split() for line in lines if line.startswith(" exercises")]
    assert [cell[1:3] for cell in cells] == [
        ["0", "plain"],
        ["0", "dflash"],
        ["0", "mlx-lm"],
        ["0.5", "plain"],
        ["0.5", "dflash"],
        ["0.5", "mlx-lm"],
    ]
    assert any(line.startswith("worst: exercises ") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--classes", "cat"], 2, "There is no class 'cat'"),
        (["--suite", "gsm"], 2, "There is no suite 'gsm'"),
        (["--suite", "gsm8k", "--classes", "chat"], 2, "--suite builtin"),
        (["--block-sizes", "auto,x"], 2, "--block-sizes must be numbers"),
        (["--block-sizes", "1"], 2, "--block-sizes must be 2 or more"),
        (["--temps", "0,warm"], 2, "--temps must be numbers"),
        (["--repeats", "0"], 2, "--repeats must be"),
        (["--no-local"], 2, "--no-local needs --base-url"),
        (["--base-url", "http://127.0.0.1:9"], 1, "cannot be reached"),
        (["--shape", "race", "--model", "qwen3-8b"], 2, "exclude each other"),
        (["--draft", "untrained", "--shape", "race", "--model", "x"], 2, "exclude"),
        (["--shape", "race", "--draft", "tiny-dflash2"], 2, "exclude each other"),
        (["--base-url", "http://x", "--no-local", "--mlx-lm"], 2, "exclude"),
        (["--plot", "none/such.png"], 2, "no folder none"),
        (["--plot", "speed.txt"], 2, "must end in .png"),
        (["--jsonl", "none/such.jsonl"], 2, "no folder none"),
        (["--contexts", "8192"], 2, "do not fit"),
    ],
)
def test_mistakes_get_one_sentence_and_a_code(arguments, code, words, tmp_path):
    if "--plot" in arguments:
        pytest.importorskip("matplotlib")
    run = program("benchmark", *arguments, cwd=tmp_path)
    assert run.returncode == code, run.stderr
    assert words in " ".join(run.stderr.split()) and run.stdout == ""
    assert "Traceback" not in run.stderr and not list(tmp_path.iterdir())


def test_a_plot_without_matplotlib_is_refused_at_once(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingPackageError, match=r"dflash-mlx\[benchmark\]"):
        plot.check(tmp_path / "speed.png")


def test_the_plot_has_both_panels(rows, tmp_path):
    figures = pytest.importorskip("matplotlib.figure")
    file = tmp_path / "speed.png"
    plot.check(file)
    plot.draw(rows, "tiny", file)
    assert file.read_bytes().startswith(b"\x89PNG")
    left, right = figures.Figure().subplots(1, 2)
    plot.speeds(left, rows)
    labels = [text.get_text() for text in left.get_legend().get_texts()]
    engines = dict.fromkeys(row.engine for row in rows if row.contender == "auto")
    assert labels == [" / ".join(engines), "dflash 4", "mlx-lm"]
    heights = sorted(bar.get_height() for bar in left.patches)
    assert heights == pytest.approx(sorted(r.of_plain for r in rows if r.of_plain))
    plot.acceptance(right, rows)
    fixed = [row for row in rows if row.contender == "4"]
    drawn = [list(line.get_ydata()) for line in right.lines]
    assert drawn == [row.acceptance for row in fixed] and len(drawn) == 2
    assert all(of >= plot.FEW for row in fixed for of in row.drafted_at)
    few = figures.Figure().subplots()
    plot.acceptance(few, [replace(fixed[0], drafted_at=[9, 8, 7])])
    assert [math.isnan(y) for y in few.lines[0].get_ydata()] == [False, False, True]
