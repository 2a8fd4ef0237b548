"""The settings of a chat: their texts, their ranges, what excludes what."""

import pytest

from dflash_mlx.errors import OptionError
from dflash_mlx.terminal.answer_request import AnswerRequest
from dflash_mlx.terminal.chat.settings import (
    SETTING_TYPES,
    Settings,
    format_value,
)
from tests.equipment.session import enter, make_session


def test_settings_are_parsed_checked_and_formatted(tiny):
    now = Settings.from_options(AnswerRequest(max_tokens=9))
    for name, text, value in (
        ("temp", "0.7", 0.7),
        ("top-p", "0.9", 0.9),
        ("top_k", "20", 20),
        ("min_p", "0.1", 0.1),
        ("seed", "7", 7),
        ("seed", "none", None),
        ("max_tokens", "-1", -1),
        ("block_size", "4", 4),
        ("thinking", "off", "off"),
        ("effort", "high", "high"),
        ("markdown", "off", False),
        ("drafts", "on", True),
        ("reasoning", "fold", "fold"),
    ):
        new = now.with_value(name, text)
        name = name.replace("-", "_")
        assert new.as_dict() == now.as_dict() | {name: value}
        assert now.with_value(name, format_value(value)) == new
        new.apply(AnswerRequest())
    assert set(now.as_dict()) == set(SETTING_TYPES)


def test_require_dflash_still_excludes_plain_decoding(tiny):
    chat = make_session(tiny, require_dflash=True)
    for line in ("/plain on", "/set block_size 1"):
        with pytest.raises(OptionError, match="exclude each other"):
            enter(chat, line)


def test_a_block_size_is_checked_during_plain_decoding(tiny):
    chat = make_session(tiny)
    enter(chat, "/plain")
    for size in (0, 257):
        with pytest.raises(OptionError, match="1 to 256"):
            enter(chat, f"/set block_size {size}")
    enter(chat, "/set block_size 4")
    enter(chat, "/plain off")
    assert chat.settings.block_size == 4
