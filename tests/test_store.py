"""The file of measurements: a damaged one is set aside, with one notice."""

import json

import pytest

from dflash_mlx.store import Store

DAMAGED = (b"", b'{"here": {"a"', b"[]", b'{"here": 3}', b"\xff\xfe\x00", b"null")


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_file_is_set_aside_with_one_notice(tmp_path, content):
    file, notices = tmp_path / "costs.json", []
    file.write_bytes(content)
    store = Store("here", file, notices.append)
    assert store.all() == {} and store.all() == {}
    assert (tmp_path / "costs.damaged").read_bytes() == content
    assert len(notices) == 1 and str(file) in notices[0]
    assert "costs.damaged" in notices[0]
    store.put("a", {"b": 1})
    assert Store("here", file, notices.append).all() == {"a": {"b": 1}}
    assert len(notices) == 1


def test_writing_to_a_damaged_file_loses_nothing_of_it(tmp_path):
    file, notices = tmp_path / "costs.json", []
    file.write_text("{")
    Store("here", file, notices.append).put("a", {"b": 1})
    assert json.loads(file.read_text()) == {"here": {"a": {"b": 1}}}
    assert (tmp_path / "costs.damaged").read_text() == "{" and len(notices) == 1


def test_a_missing_or_sound_file_gives_no_notice(tmp_path):
    file, notices = tmp_path / "costs.json", []
    store = Store("here", file, notices.append)
    assert store.all() == {}
    store.put("a", {"b": 1})
    assert store.all() == {"a": {"b": 1}} and not notices
