"""Whether the operands of a loss are like those that a launch was planned for."""

from __future__ import annotations

from numba import int64

from ..intrinsics import call_address, pointer, view
from ..tables import Libtorch, OperandBlock, OperandRecord
from .tensor_guard import BYTE, is_strided_on, is_unresolved, read

IMPL_OFFSET = 0  # from the address of a tensor object to its handle
OBJECT_TYPE, TUPLE_LENGTH, TUPLE_ITEMS = 0, 0, 0  # offsets in objects of CPython
RECORD_BYTES = 32  # of one OperandRecord
ALIGNMENT = 16


def are_alike(block, arguments) -> int:
    """Return 1 for a tuple of tensors that differ from those of the plan in their values and addresses at most."""
    plan = view(block, OperandBlock)
    lib = view(plan.libtorch, Libtorch)
    if pointer(arguments[0] + OBJECT_TYPE, int64)[0] != plan.tuple:
        return 0
    if pointer(arguments[0] + TUPLE_LENGTH, int64)[0] != plan.operands:
        return 0
    operands = pointer(arguments[0] + TUPLE_ITEMS, int64)
    is_grad_enabled = call_address(lib.is_grad_enabled) & BYTE
    place = 0
    for i in range(plan.operands):
        expected = view(plan.records + RECORD_BYTES * i, OperandRecord)
        kind = pointer(operands[i] + OBJECT_TYPE, int64)[0]
        if kind != plan.tensor and kind != plan.parameter:
            return 0
        x = operands[i] + IMPL_OFFSET
        if (call_address(lib.requires_grad, pointer(x, int64)[0]) & is_grad_enabled) != expected.wants_grad:
            return 0
        if not is_strided_on(lib, x, plan.device, plan.device_index):
            return 0
        if read(lib.dtype, x) != expected.dtype or read(lib.dim, x) != expected.dim or is_unresolved(lib, x):
            return 0
        sizes, strides = pointer(read(lib.sizes, x), int64), pointer(read(lib.strides, x), int64)
        dims = pointer(plan.dims + 8 * place, int64)
        for k in range(expected.dim):
            if sizes[k] != dims[2 * k] or strides[k] != dims[2 * k + 1]:
                return 0
        place += 2 * expected.dim
        address = read(lib.address, x)
        if address == 0 or address % ALIGNMENT != expected.misalignment:
            return 0
    return 1
