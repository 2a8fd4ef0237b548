"""What is said while a load measures."""

from dflash_mlx.tuning.meter import Meter
from tests.equipment.mac import Clock


def test_a_meter_says_what_how_many_and_how_long():
    lines, clock = [], Clock()
    meter = Meter("Measuring kernels", lines.append, clock.perf_counter)
    meter(0, 3, "attention")
    clock.sleep(4.0)
    meter(1, 3, "matmul")
    clock.sleep(2.0)
    meter(2, 3, "matmul")
    assert lines == [
        "Measuring kernels: attention, 1 of 3",
        "Measuring kernels: matmul, 2 of 3, about 8 s left",
        "Measuring kernels: matmul, 3 of 3, about 3 s left",
    ]
