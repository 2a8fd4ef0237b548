"""Chances of drafts: how counts weigh, and how a drafter's confidence is corrected."""

import pytest

from dflash_mlx.speculation.acceptance import Acceptance, ConfidenceCalibration


def test_confidence_is_corrected_by_what_is_kept():
    confidence = ConfidenceCalibration()
    assert confidence.chances([0.9, 0.1]) == [0.9, 0.1]
    for _ in range(100):
        confidence.record([0.9, 0.9, 0.1], 1)  # an overconfident drafter
    high, low = confidence.chances([0.9, 0.1])
    assert high == pytest.approx(0.5, abs=0.05) and low == 0.1


def test_recent_rounds_count_more():
    for first, then, least, most in ((0, 1, 0.5, 1.0), (1, 0, 0.0, 0.5)):
        acceptance = Acceptance()
        for kept in [first] * 60 + [then] * 24:
            acceptance.record(1, kept)
        assert least < acceptance.chances(1)[0] < most
        assert acceptance.tried[0] < 24
