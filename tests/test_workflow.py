"""The workflow of continuous integration runs commands that exist."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from dflash_mlx.cli import manual

ROOT = Path(__file__).parents[1]
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
TARGETS = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)[1]


def commands(job):
    """The commands of a job's steps, without what they are piped into."""
    runs = [step["run"] for step in WORKFLOW["jobs"][job]["steps"] if "run" in step]
    return [line.partition(" | ")[0] for run in runs for line in run.split(" && ")]


@pytest.mark.parametrize("job", WORKFLOW["jobs"])
def test_every_step_runs_a_command_that_exists(job):
    seen = 0
    for command in commands(job):
        program, *words = shlex.split(command)
        if program == "make":
            assert words[0] in TARGETS.split(), command
        elif program == ".venv/bin/dflash-mlx":
            manual.commands()[words[0]].make_context(words[0], words[1:])
        else:
            assert program == "sudo", command
        seen += 1
    assert seen >= 3


def test_a_failure_in_a_pipe_fails_its_step():
    assert WORKFLOW["defaults"]["run"]["shell"] == "bash"  # with pipefail


def test_reports_are_kept():
    steps = WORKFLOW["jobs"]["mac"]["steps"]
    written = {
        file
        for step in steps
        for file in re.findall(r"\| tee (\S+)", step.get("run", ""))
    }
    (upload,) = [step for step in steps if "upload-artifact" in step.get("uses", "")]
    assert set(upload["with"]["path"].split()) == written
    assert len(written) == 3
