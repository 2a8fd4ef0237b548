"""Stand-ins for kernels and operations: they double an array of shape [1, rows, 8]."""

import mlx.core as mx

from dflash_mlx.metal.kernel import Kernel
from dflash_mlx.metal.operation import Operation, Request
from dflash_mlx.metal.verdicts import Verdicts

SHAPE = (8,)


def double(x):
    return 2 * x


def case(rows):
    return {"x": mx.ones((1, rows, 8))}


def doubling(name="doubling", launch=double, **changes):
    """A kernel that doubles, or does what `launch` does."""
    fields = {
        "name": name,
        "sources": ("block_matmul_dense",),
        "launch": launch,
        "twin": double,
        "cases": lambda: iter([case(4)]),
        "tolerance": lambda x: 1e-6,
        "refusal": lambda x: "",
    }
    return Kernel(**fields | changes)


def operation(*kernels):
    """An operation with these candidates; the last one is exact."""
    return Operation(
        "doubling",
        kernels,
        kernels[-1],
        stock=double,
        sample=lambda _, rows: case(rows),
        row_alone=lambda case, row: {"x": case["x"][:, row : row + 1]},
    )


def request(*kernels):
    return Request(operation(*kernels), SHAPE, case(2))


def raising(error):
    """A launch that raises."""

    def launch(x):
        raise error

    return launch


def verdicts(tmp_path, machine="chip"):
    """Verdicts in a file of the test's own, in a folder that does not exist yet."""
    return Verdicts(machine, tmp_path / "deep" / "kernels.json")
