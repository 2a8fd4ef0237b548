"""`verify`: verdicts, exit codes, and single bits."""

import pytest
import typer

from dflash_mlx import Pair, load
from dflash_mlx.bench import verify
from dflash_mlx.bench.verify import compare
from tests.equipment.tiny import (
    Script,
    make_drafter,
    make_model,
    reference,
    some_prompt,
)


@pytest.mark.slow
def test_verify_classifies_differences():
    model, prompt = make_model("llama"), some_prompt(20)
    answer = reference(model, prompt, 30)
    pair = Pair.of(model, Script(prompt + answer, [3]))
    same = compare(pair, prompt, "x", (), 30, None)
    assert (same.verdict, same.first_difference, same.tokens) == ("identical", None, 30)

    pair = Pair.of(model, make_drafter())

    class Broken(type(pair.target)):
        """A target that verifies other tokens than those of the block."""

        def forward(self, tokens, cache, taps=()):
            if 1 < tokens.shape[1] < 9:
                tokens = (tokens + 1) % 90
            return super().forward(tokens, cache, taps)

    pair.target.__class__ = Broken
    found = compare(pair, prompt, "x", (), 30, None)
    assert found.verdict == "different" and found.first_difference <= 2
    assert found.margin > 0


@pytest.mark.parametrize("kernels, code", (("exact", 1), ("auto", 0)))
def test_exact_kernels_must_give_equal_bits(monkeypatch, capsys, kernels, code):
    near = verify.Comparison("", 3, None, None, "identical", False)
    monkeypatch.setattr(verify, "compare", lambda *arguments: near)
    pair, tokenizer = load("tiny", kernels=kernels)
    options = {"kernels": kernels, "max_tokens": 2, "block_size": None}
    exit_code = 0
    try:
        verify.run(pair, tokenizer, ["Hi"], as_json=False, **options)
    except typer.Exit as end:
        exit_code = end.exit_code
    assert exit_code == code and "not equal bit for bit" in capsys.readouterr().out


def test_verify_notices_a_single_bit(monkeypatch):
    model, prompt = make_model("qwen3"), some_prompt(20)
    pair = Pair.of(model, Script(prompt + reference(model, prompt, 20), (2, 0, 5)))
    calls, stock = iter(range(99)), type(pair.target).verify

    def scaled_once(target, tokens, cache, taps=()):
        logits, *rest = stock(target, tokens, cache, taps)
        return logits * (1 + 1e-6 * (next(calls) == 1)), *rest

    monkeypatch.setattr(type(pair.target), "verify", scaled_once)
    found = compare(pair, prompt, "", (), 20, 6)
    assert found.verdict == "identical" and not found.bits
