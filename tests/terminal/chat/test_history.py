"""The history of typed lines: shared, damaged, too long, not writable."""

from pathlib import Path

import pytest

from dflash_mlx.terminal.chat.history import (
    MAX_ENTRIES,
    FileHistory,
    append_entries,
    data_folder,
    read_entries,
)


def test_history_across_sessions(tmp_path):
    file = tmp_path / "data" / "history.jsonl"
    notices = []
    one = FileHistory(file, notices.append)
    two = FileHistory(file, notices.append)
    for each, text in ((one, "first"), (two, "日本語 🦎"), (one, "two\nlines\u2028")):
        each.append_string(text)
    assert file.stat().st_mode & 0o777 == 0o600
    later = FileHistory(file, notices.append)
    assert list(later.load_history_strings()) == [
        "two\nlines\u2028",
        "日本語 🦎",
        "first",
    ]
    assert notices == []


@pytest.mark.parametrize(
    "damage", (b'"cut off', b"\xff\xfe\n", b"17\n", b"[" * 100_000)
)
def test_a_damaged_history_is_renamed(tmp_path, damage):
    file = tmp_path / "history.jsonl"
    for n in range(2):
        content = b'"first"\n' + damage
        file.write_bytes(content)
        notices = []
        lines = FileHistory(file, notices.append)
        assert list(lines.load_history_strings()) == ["first"]
        renamed = tmp_path / ("history.jsonl.broken" + ("-2" if n else ""))
        assert renamed.read_bytes() == content and str(renamed) in notices[0]
        lines.append_string("second")
        again = FileHistory(file, notices.append)
        assert again.entries == ["first", "second"] and len(notices) == 1


def test_a_history_that_others_can_read_is_made_private(tmp_path):
    file = tmp_path / "history.jsonl"
    file.write_text('"first"\n')
    file.chmod(0o644)
    FileHistory(file, print).append_string("second")
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_long_history_is_cut(tmp_path):
    file = tmp_path / "history.jsonl"
    append_entries(file, [str(n) for n in range(MAX_ENTRIES + 1)])
    lines = FileHistory(file, print)
    assert lines.entries == [str(n) for n in range(1001, MAX_ENTRIES + 1)]
    assert read_entries(file) == (lines.entries, True)
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_history_that_cannot_be_written_gives_one_notice(tmp_path):
    (tmp_path / "data").write_text("a file, not a folder")
    notices = []
    lines = FileHistory(tmp_path / "data" / "history.jsonl", notices.append)
    lines.append_string("a")
    lines.append_string("b")
    assert len(notices) == 1 and "cannot be kept" in notices[0]
    assert lines.get_strings() == ["a", "b"]


def test_the_history_is_in_the_users_home():
    assert data_folder().is_relative_to(Path.home())
