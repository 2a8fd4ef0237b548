"""Measurements: the widened pair says the same, the race and verify tell the truth."""

import mlx.core as mx
import pytest
import typer

from benchmarks import race
from dflash_mlx import Pair, decode, load
from dflash_mlx.bench import demo, verify
from dflash_mlx.bench.verify import compare
from dflash_mlx.bench.widen import (
    Shape,
    Widening,
    shape_of,
    widen,
)
from dflash_mlx.errors import OptionError
from tests.equipment.tiny import (
    Script,
    make_drafter,
    make_model,
    reference,
    some_prompt,
)

WIDE = Shape(256, 640, 8, 2, 64, 9, 700)


@pytest.fixture(scope="module")
def tiny():
    pair, tokenizer = load("tiny")
    pair.model.set_dtype(mx.float32)
    pair.drafter.set_dtype(mx.float32)
    return pair, tokenizer


def test_widening_changes_neither_tokens_nor_acceptance(tiny):
    pair, tokenizer = tiny
    wide = widen(pair, WIDE)
    assert wide.model.model.embed_tokens.weight.shape == (700, 256)
    assert wide.drafter.taps == (2, 5, 6)
    for prompt in race.PROMPTS[:2]:
        messages = [{"role": "user", "content": prompt}]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        told = [
            [
                (r.tokens, r.accepted)
                for r in decode(each, ids, max_tokens=60, block_size=8)
            ]
            for each in (pair, wide)
        ]
        assert told[0] == told[1]
    logits = [
        each.target.forward(mx.array([ids]), each.target.make_cache())[0]
        for each in (pair, wide)
    ]
    assert mx.allclose(logits[0], logits[1][..., :512], atol=2e-3).item()
    # Ids beyond the small vocabulary are as unlikely as the mask token.
    assert mx.allclose(logits[1][..., 512:], logits[1][..., 3:4]).item()


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": 100},
        {"head_dim": 48},
        {"num_attention_heads": 6, "num_key_value_heads": 3},
        {"num_key_value_heads": 3},
    ],
)
def test_shapes_that_cannot_hold_the_small_one(tiny, change):
    small = shape_of(tiny[0].target.config)
    with pytest.raises(OptionError):
        Widening(small, Shape(**vars(WIDE) | change))


def test_the_race_counts_tokens_and_compares_texts(tiny):
    pair, tokenizer = tiny
    runners = {
        "mlx-lm": race.run_mlx_lm,
        "plain": race.run_ours(False),
        # A width of its own: what passes cost on this machine is not asked here.
        "dflash": race.run_ours(True, 8),
    }
    results = race.race(runners, pair, tokenizer, tokens=24, repeats=1)
    assert all(row["identical"] for row in results.values())
    assert results["plain"]["tokens_per_round"] == 1
    assert results["dflash"]["tokens_per_round"] > 2
    assert race.ratio(results, "plain", "plain") == 1
    wrong = runners | {"liar": lambda *_: ([1, 2], 1.0, 1.0)}
    assert not race.race(wrong, pair, tokenizer, 8, 1)["liar"]["identical"]
    rows = race.prefill(pair, 300, 1)
    assert all(row["seconds"] > 0 for row in rows.values())


def test_verify_classifies_differences():
    model, prompt = make_model("llama"), some_prompt(20)
    answer = reference(model, prompt, 30)
    pair = Pair.of(model, Script(prompt + answer, [3]))
    same = compare(pair, prompt, "x", (), 30, None)
    assert (same.verdict, same.first_difference, same.tokens) == ("identical", None, 30)

    pair = Pair.of(model, make_drafter())

    class Broken(type(pair.target)):
        """Sees other tokens when it verifies a block."""

        def forward(self, tokens, cache, taps=()):
            if 1 < tokens.shape[1] < 9:
                tokens = (tokens + 1) % 90
            return super().forward(tokens, cache, taps)

    pair.target.__class__ = Broken
    found = compare(pair, prompt, "x", (), 30, None)
    assert found.verdict == "different" and found.first_difference <= 2
    assert found.margin > 0


def test_the_demo_runs(capsys):
    demo.main()
    out = capsys.readouterr().out
    assert out.count("outputs identical") == 3 and "tokens per round" in out


@pytest.mark.parametrize("kernels, code", (("exact", 1), ("auto", 0)))
def test_verify_exits_by_bits_if_asked(monkeypatch, capsys, kernels, code):
    near = verify.Comparison("", 3, None, None, "identical", False)
    monkeypatch.setattr(verify, "compare", lambda *asked: near)
    options = dict.fromkeys(("draft", "quantize", "draft_quantize", "block_size"))
    options |= {"model": "tiny", "kernels": kernels, "max_tokens": 2, "notice": print}
    left = 0
    try:
        verify.run(["Hi"], trust_remote_code=False, as_json=False, **options)
    except typer.Exit as end:
        left = end.exit_code
    assert left == code and "not equal bit for bit" in capsys.readouterr().out


def test_verify_sees_one_bit_anywhere(monkeypatch):
    model, prompt = make_model("qwen3"), some_prompt(20)
    pair = Pair.of(model, Script(prompt + reference(model, prompt, 20), (2, 0, 5)))
    calls, stock = iter(range(99)), type(pair.target).verify

    def off(target, tokens, cache, taps=()):
        logits, *rest = stock(target, tokens, cache, taps)
        return logits * (1 + 1e-6 * (next(calls) == 1)), *rest

    monkeypatch.setattr(type(pair.target), "verify", off)
    found = compare(pair, prompt, "", (), 20, 6)
    assert found.verdict == "identical" and not found.bits
