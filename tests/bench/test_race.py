"""The race of four loops, and `make demo`."""

import pytest

from benchmarks import race
from dflash_mlx.bench import demo


@pytest.mark.full("programs")
def test_the_race_counts_tokens_and_compares_texts(tiny_float32):
    pair, tokenizer = tiny_float32
    runners = {
        "mlx-lm": race.run_mlx_lm,
        "plain": race.run_ours(False),
        # A fixed width does not depend on the cost of passes on this machine.
        "dflash": race.run_ours(True, 8),
    }
    results = race.race(runners, pair, tokenizer, tokens=24, repeats=1)
    assert all(row["identical"] for row in results.values())
    assert results["plain"]["tokens_per_round"] == 1
    assert results["dflash"]["tokens_per_round"] > 2
    assert race.ratio(results, "plain", "plain") == 1
    wrong = runners | {"wrong": lambda *_: ([1, 2], 1.0, 1.0)}
    assert not race.race(wrong, pair, tokenizer, 8, 1)["wrong"]["identical"]
    rows = race.prefill(pair, 300, 1)
    assert all(row["seconds"] > 0 for row in rows.values())


@pytest.mark.full("programs")
def test_the_demo_runs(capsys):
    demo.main()
    out = capsys.readouterr().out
    *_, last = out.strip().splitlines()
    assert last.startswith("All together: ") and "plain decoding" in last
    assert last.endswith("outputs identical.") and out.count("identical\n") == 3
    assert "tokens per round" in out and out.count(" tok/s") == 6
