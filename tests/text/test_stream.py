"""Streamed text with stop strings, wherever the text is cut."""

import pytest

from dflash_mlx.text.stream import TextStream, overlap


class Letters:
    """A detokenizer whose tokens are strings."""

    def __init__(self):
        self.last_segment = ""

    def add_token(self, token):
        self.last_segment = token

    def finalize(self):
        self.last_segment = ""


def stream(text, stops, size):
    """Push `text` in pieces of a size; return the parts and whether it stopped."""
    out, parts = TextStream(Letters(), stops), []
    for i in range(0, len(text), size):
        part, stopped = out.push(text[i : i + size])
        parts.append(part)
        if stopped:
            return parts, True
    rest, stopped = out.finish()
    return [*parts, rest], stopped


@pytest.mark.parametrize("size", range(1, 9))
@pytest.mark.parametrize("at", range(12))
def test_a_stop_string_at_every_offset_is_never_shown(size, at):
    text = "abcabcabcabcabc"[:at] + "STOP" + "xyz"
    parts, stopped = stream(text, ("STOP",), size)
    assert stopped and "".join(parts) == text[:at]
    assert not any(part.endswith(("S", "ST", "STO")) for part in parts)


@pytest.mark.parametrize("size", (1, 2, 3))
def test_text_without_a_stop_string_is_complete(size):
    text = "a STOP that is STO but no S T O P\nSTO"
    parts, stopped = stream(text.replace("STOP", "STO."), ("STOP", "\n\n"), size)
    assert not stopped and "".join(parts) == text.replace("STOP", "STO.")


def test_the_earliest_of_several_stops_wins():
    parts, stopped = stream("one two three", ("three", "two"), 4)
    assert stopped and "".join(parts) == "one "


def test_overlap():
    assert overlap("xxab", "abc") == 2
    assert overlap("abc", "abc") == 0
    assert overlap("aab", "aabaab") == 3
    assert overlap("", "a") == 0
