"""The command line, run in this process or in one of its own.

A process of its own takes two seconds to import MLX and mlx-lm, so tests use one only
for what a process is needed for: signals, streams, environment variables.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dflash_mlx.cli import app


@dataclass(frozen=True)
class Run:
    """How a run of the program ended."""

    returncode: int
    stdout: str
    stderr: str


def program(*arguments: str, stdin: str = "", cwd: Path | None = None) -> Run:
    """Run `dflash-mlx` in this process; a bug raises as it would there."""
    with contextlib.chdir(cwd or os.getcwd()), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["dflash-mlx", *arguments])
        result = CliRunner().invoke(
            app, arguments, input=stdin, prog_name="dflash-mlx", catch_exceptions=False
        )
    return Run(result.exit_code, result.stdout, result.stderr)


def process(*arguments: str, stdin: str = "", env=None, **more):
    """Run `dflash-mlx` in a process of its own, as subprocess.run does."""
    return subprocess.run(
        [sys.executable, "-m", "dflash_mlx", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        env=dict(os.environ, **(env or {})),
        **more,
    )
