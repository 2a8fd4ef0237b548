"""The command line: a module per group of commands, arguments to one call each.

Nothing heavy is imported until a command runs, so --help is instant.
"""

from . import answer, models, kernels, drafters, benchmark, train  # noqa: F401, I001
from .app import app, run_app

__all__ = ["app", "main"]


def main() -> None:
    """Entry point of the dflash-mlx program."""
    run_app()
