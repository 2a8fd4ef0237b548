"""The messages about an answer: status line, cut-off notices, /stats."""

from types import SimpleNamespace

from dflash_mlx.stats import PARKED, UNDRAFTED, Stats
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
    assert status_line(drafted()) == "21 tok  64 tok/s"
    plain = response(1, reason=PARKED)
    assert status_line(plain) == "1 tok  plain"
    slow = response(60, engine="dflash")
    slow.generation_tps = 4.25
    assert status_line(slow) == "60 tok  4.2 tok/s"


def compared(tokens):
    last = response(tokens, engine="dflash")
    last.stats.plain_seconds, last.stats.compared_seconds = 4.8, 2.4
    last.stats.compared_rounds = 5
    return last


def test_a_gain_is_shown_from_fifty_tokens_on():
    assert status_line(compared(49)) == "49 tok  64 tok/s"
    assert status_line(compared(50)) == "50 tok  64 tok/s  2.0x"
    longest = compared(123456)
    longest.generation_tps, longest.stats.plain_seconds = 1234.5, 24.0
    assert len(status_line(longest)) <= 60


def test_why_an_answer_was_cut_off():
    assert cutoff_notice(response(), 53) == ""
    cut = response(finish_reason="length")
    assert cutoff_notice(cut, None) == (
        "The answer was cut off at max_tokens (21). /continue continues it; "
        "/set max_tokens 42 allows longer answers."
    )
    assert "context of 53 tokens is full" in cutoff_notice(cut, 53)
    assert "max_tokens" in cutoff_notice(cut, 54)


def test_the_report_of_a_session():
    stats = SessionStats()
    assert stats.report() == "There are no answers yet."
    stats.add(drafted())
    answer = [
        "Last answer",
        "  21 tokens at 64 tokens/s.",
        "  15 of 20 guesses right; 4.00 tokens per pass.",
        "  Too short to compare with plain decoding.",
        "  First token after 0.00 s.",
        "  24 of 32 prompt tokens came from the cache.",
    ]
    assert stats.report().split("\n") == answer
    assert stats.report(tables=True).split("\n") == [
        *answer,
        "  position  guesses  right",
        "         1        5   100%",
        "         2        5    80%",
        "  rows  passes  seconds",
        "     1       1     0.25",
        "     4       4     0.50",
    ]
    stats.add(drafted())
    assert stats.report().split("\n")[6:] == [
        "All 2 answers",
        "  42 tokens, 1.5 s of decoding.",
        "  30 of 40 guesses right; 4.00 tokens per pass.",
        "  First tokens after 0.00 s.",
        "  48 of 64 prompt tokens came from the cache.",
    ]
    assert stats.report(tables=True).endswith("     4       8     1.00")


def test_no_line_of_stats_is_wider_than_sixty_columns():
    stats = SessionStats()
    for reason in (PARKED, UNDRAFTED):
        stats.add(response(60, reason=reason))
    stats.add(compared(12_345), seed=2**32 - 1)
    for lines in (stats.report(), stats.report(tables=True)):
        assert max(map(len, lines.split("\n"))) <= 60


def test_a_gain_or_loss_in_words():
    stats = SessionStats()
    stats.add(compared(60))
    line = "  About 2.0 times the speed of plain decoding, 2.4 s saved."
    assert line in stats.report().split("\n")
    stats.add(compared(60))
    assert "  About 4.8 s saved." in stats.report().split("\n")
    slow = compared(60)
    slow.stats.plain_seconds = 1.2
    stats.add(slow, seed=7)
    report = stats.report()
    assert "About 0.5 times the speed of plain decoding, 1.2 s lost." in report
    assert "Seed 7; /set seed 7 uses it again." in report
