"""Any text at all: nothing raises, and nothing is lost."""

import random
import re

import pytest

from tests.equipment.tool_samples import SAMPLES, cut, parse

LETTERS = "abcdefgh"


def soup(rng, samples):
    """A text of the format with random cuts, swaps, repetitions and marker soup."""
    format = samples[0].format
    text = "".join(rng.choice(samples).text for _ in range(rng.randint(1, 2)))
    parts = re.findall(r"<[^<>]*>|[^<>]+|.", text, re.DOTALL)
    more = (*format.opening, *format.closing, *"{}[]<>\"'\\\n,:", "</parameter>")
    for _ in range(rng.randint(0, 6)):
        i, j = rng.randrange(len(parts)), rng.randrange(len(parts))
        match rng.randrange(6):
            case 0:
                del parts[i : i + rng.randint(1, 3)]
                parts = parts or ["x"]
            case 1:
                parts[i], parts[j] = parts[j], parts[i]
            case 2:
                parts.insert(i, rng.choice(more))
            case 3:
                parts = parts[: i + 1]
            case 4:
                parts.insert(j, parts[i])
            case 5:
                at = rng.randrange(len(parts[i]) + 1)
                odd = rng.choice(["x", "", '"', "<", "}"])
                parts[i] = parts[i][:at] + odd + parts[i][at + 1 :]
    for word in range(rng.randint(0, 4)):
        parts.insert(rng.randrange(len(parts) + 1), f" zq{LETTERS[word]}zq ")
    return "".join(parts)


@pytest.mark.parametrize("block", range(20))
def test_nothing_raises_and_nothing_is_lost(block):
    """2,000 broken texts: the same in any pieces, and every word is delivered."""
    families = {}
    for sample in SAMPLES:
        families.setdefault(sample.format, []).append(sample)
    families = list(families.values())
    for seed in range(block * 100, block * 100 + 100):
        rng = random.Random(seed)
        samples = rng.choice(families)
        text, truncated = soup(rng, samples), rng.random() < 0.5
        format = samples[0].format
        whole = parse(format, [text], truncated=truncated)
        places = [rng.randrange(len(text) + 1) for _ in range(rng.randint(1, 9))]
        assert parse(format, cut(text, places), truncated=truncated) == whole
        if not whole.calls:  # every character, but for white space before a call
            assert "".join(whole.outside.split()) == "".join(text.split())
        delivered = whole.text + "".join(event.raw for event in whole.broken)
        delivered += "".join(map(str, whole.calls)) + "".join(whole.arguments)
        delivered += "".join(whole.warnings)
        for word in re.findall(r"zq\wzq", text):
            assert word in delivered, f"seed {seed}: {word} of {text!r}"
