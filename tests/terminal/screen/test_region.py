"""Control characters that a terminal must not receive."""

from dflash_mlx.terminal.screen.region import ControlEscaper, escape_controls
from tests.equipment.screen import stream_markdown


def test_control_characters_are_replaced():
    evil = (
        "a\x1b[2Jb \x1b]0;title\x07 \x9b31m \x08\x7f \u202eabc\n\n```\n\x1b[31mx\n```\n"
    )
    for step in (1, 100):
        screen = stream_markdown(evil, step=step)
        assert not screen.controls()
        text = "\n".join(screen.rows())
        assert "a␛[2Jb" in text and "␛[31mx" in text and "\u202e" not in text
    assert escape_controls("a\tb\r\nc\rd\x00") == "a\tb\nc\nd␀"
    escaper = ControlEscaper()
    pieces = [escaper.push("a\r"), escaper.push("\nb\r"), escaper.close()]
    assert pieces == ["a", "\nb", "\n"]
