"""Runs the dflash-mlx program as `python -m dflash_mlx`."""

from .cli import main

main()
