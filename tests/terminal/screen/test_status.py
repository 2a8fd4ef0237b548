"""The messages about an answer: status line, cut-off notices, /stats."""

from types import SimpleNamespace

from dflash_mlx.stats import PARKED, Stats
from dflash_mlx.terminal.screen.status import (
    SessionStats,
    cutoff_notice,
    status_line,
)


def response(tokens=21, finish_reason="stop", **fields):
    stats = Stats(prompt_tokens=8, cached_tokens=24, tokens=tokens, answers=1, **fields)
    return SimpleNamespace(
        stats=stats,
        generation_tokens=tokens,
        generation_tps=64.04,
        finish_reason=finish_reason,
    )


def drafted():
    counts = {"rounds": 5, "drafted": 20, "accepted": 15}
    positions = {"accepted_at": [5, 4], "drafted_at": [5, 5]}
    widths = {"seconds_by_width": {1: [1, 0.25], 4: [4, 0.5]}}
    return response(engine="dflash", **counts, **positions, **widths)


def test_the_status_line():
    end = "first token 0.00 s | 24 of 32 prompt tokens cached"
    tokens = "21 tokens, 64.0 tokens/s"
    assert status_line(drafted()) == (
        f"{tokens} | dflash: 4.00 tokens per round | {end}"
    )
    plain = response(1, reason=PARKED)
    assert status_line(plain) == (
        f"1 token | plain ({PARKED}): 0.00 tokens per round | {end}"
    )
    fast = drafted()
    fast.stats.plain_seconds, fast.stats.compared_seconds = 1.5, 0.75
    fast.stats.compared_rounds = 5
    assert "per round, about 2.0 times plain decoding |" in status_line(fast)


def test_why_an_answer_was_cut_off():
    assert cutoff_notice(response(), 53) == ""
    cut = response(finish_reason="length")
    assert cutoff_notice(cut, None) == (
        "The answer was cut off at max_tokens (21). For more, use /set max_tokens 42 "
        "and /retry."
    )
    assert "context of 53 tokens is full" in cutoff_notice(cut, 53)
    assert "max_tokens" in cutoff_notice(cut, 54)


def test_the_report_of_a_session():
    stats = SessionStats()
    assert stats.report() == "There are no answers yet."
    stats.add(drafted())
    line, drafts, widths = stats.report().split("\n")
    assert line == f"Last answer: {status_line(drafted())}"
    assert drafts == "  drafts accepted: 15 of 20; by position: 100% 80%"
    assert widths == "  rounds by width: 1 with 1 row (0.25 s), 4 with 4 rows (0.50 s)"
    stats.add(drafted())
    session, drafts, widths = stats.report().split("\n")[3:]
    assert session == (
        "Session: 2 answers, 42 tokens | 4.00 tokens per round | 1.50 s decoding, "
        "0.00 s until first tokens | 48 of 64 prompt tokens cached"
    )
    assert drafts == "  drafts accepted: 30 of 40; by position: 100% 80%"
    assert widths == "  rounds by width: 2 with 1 row (0.50 s), 8 with 4 rows (1.00 s)"
