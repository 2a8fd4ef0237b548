"""Which runs may record that the whole grids passed."""

import pytest

from tests.equipment import full


class Config:
    """The options of a pytest run."""

    def __init__(self, args=("tests",), **options):
        self.args, self.options = list(args), options

    def getoption(self, name):
        return self.options.get(name)

    def getini(self, name):
        return ["tests"]


@pytest.mark.parametrize(
    "options",
    [
        {"collectonly": True},
        {"keyword": "loop"},
        {"markexpr": "not slow"},
        {"deselect": ["tests/test_full.py"]},
        {"lf": True},
        {"args": ["tests/metal"]},
    ],
)
def test_a_run_of_some_tests_records_nothing(options, tmp_path, monkeypatch):
    monkeypatch.setattr(full, "RECORD", tmp_path / "full.json")
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    config = Config(**options)
    config.options["--full"] = "all"
    session = type("Session", (), {"config": config})
    full.pytest_sessionfinish(session, pytest.ExitCode.OK)
    assert not full.RECORD.exists()


def test_a_whole_run_records_every_group(tmp_path, monkeypatch):
    monkeypatch.setattr(full, "RECORD", tmp_path / "full.json")
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    config = Config(**{"--full": "all"})
    session = type("Session", (), {"config": config})
    full.pytest_sessionfinish(session, pytest.ExitCode.TESTS_FAILED)
    assert full.changed() == set(full.GROUPS)
    full.pytest_sessionfinish(session, pytest.ExitCode.OK)
    assert full.recorded().keys() == full.GROUPS.keys() and not full.changed()


def test_a_change_of_a_file_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(full, "ROOT", tmp_path)
    monkeypatch.setattr(full, "GROUPS", {"a": ("folder",)})
    (tmp_path / "folder").mkdir()
    file = tmp_path / "folder" / "x.py"
    file.write_text("1")
    before = full.digest("a")
    file.write_text("2")
    assert full.digest("a") != before
    (tmp_path / "folder" / "notes.md").write_text("x")  # no code
    file.write_text("1")
    assert full.digest("a") == before
