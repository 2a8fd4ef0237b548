"""Metal kernels for passes over a block of rows, each with a plain twin.

`KERNELS` lists them by name. Importing this package does not use Metal.
"""

from . import block_attention, block_matmul, gated_delta_block
from .kernel import Kernel

KERNELS: dict[str, Kernel] = {
    kernel.name: kernel
    for kernel in (
        *block_matmul.KERNELS,
        block_attention.KERNEL,
        *gated_delta_block.KERNELS,
    )
}
