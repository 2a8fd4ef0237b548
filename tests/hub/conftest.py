"""Fixtures: a folder of a model."""

import pytest

from tests.equipment.folders import copy_tiny


@pytest.fixture
def folder(tmp_path):
    """A copy of the embedded pair."""
    return copy_tiny(tmp_path / "tiny")
