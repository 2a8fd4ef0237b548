"""python -m dflash_mlx: the same as the dflash-mlx program."""

from .cli import main

main()
