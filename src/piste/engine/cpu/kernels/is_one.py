"""Whether a gradient is 1 everywhere, as it is where a backward begins at a loss or at its sum."""

from __future__ import annotations

from numba import float32, float64, int64, uint16

from ...native.intrinsics import call_address, pointer, view
from ...native.kernels.tensor_guard import BYTE, is_strided_cpu, read
from ...native.tables import Libtorch
from ..tables import IsOneBlock

IMPL_OFFSET = 0  # from the address of a tensor object to its handle
BFLOAT16_ONE, FLOAT16_ONE = 0x3F80, 0x3C00


def is_one(block, arguments) -> int:
    """1 for a tensor of one stored element, a 1, however often strides of 0 repeat it; 0 for any other."""
    table = view(block, IsOneBlock)
    lib = view(table.libtorch, Libtorch)
    x = arguments[0] + IMPL_OFFSET
    if (call_address(lib.has_storage, pointer(x, int64)[0]) & BYTE) == 0:
        return 0  # it stands for several tensors, or for another one
    if (call_address(lib.is_neg, x) & BYTE) != 0 or not is_strided_cpu(lib, x):
        return 0
    sizes, strides = pointer(read(lib.sizes, x), int64), pointer(read(lib.strides, x), int64)
    for k in range(read(lib.dim, x)):
        if sizes[k] == 0 or (sizes[k] != 1 and strides[k] != 0):
            return 0
    dtype, address = read(lib.dtype, x), read(lib.address, x)
    if address == 0:
        return 0
    if dtype == table.float32:
        return 1 if pointer(address, float32)[0] == 1.0 else 0
    if dtype == table.float64:
        return 1 if pointer(address, float64)[0] == 1.0 else 0
    if dtype == table.bfloat16:
        return 1 if pointer(address, uint16)[0] == BFLOAT16_ONE else 0
    if dtype == table.float16:
        return 1 if pointer(address, uint16)[0] == FLOAT16_ONE else 0
    return 0
