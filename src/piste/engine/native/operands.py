"""A native test whether the operands of a call are like those of an earlier one.

Asking Python about type, device, dtype, sizes, strides and address of each operand takes longer than a launch.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...torch_internals import PLAIN_TYPES
from .compiler import load_file
from .fastcall import make_fastcall
from .native_guard import native_guard
from .tables import OperandBlock, OperandRecord
from .torch_internals import CPYTHON_OFFSETS, device_code, dtype_code, impl_offset

__all__ = ["make_operand_check"]


def make_operand_check(operands: Sequence[Tensor], wanted: Sequence[bool]) -> Callable[[object], bool] | None:
    """Return a predicate: does this tuple of tensors differ from some operands in values and addresses at most?

    Args:
        operands: strided tensors on one device.
        wanted: whether the gradient by each of them is computed.

    Returns:
        A function of an object that changes nothing, and is true for no subclass of a tensor; None where machine code
        can't ask libtorch.
    """
    lib = native_guard()
    if lib is None or not PLAIN_TYPES.issuperset(map(type, operands)):
        return None
    records, dims = (OperandRecord * len(operands))(), array("q")
    for record, x, wants_grad in zip(records, operands, wanted, strict=True):
        record.dtype, record.dim, record.wants_grad = dtype_code(x.dtype), x.dim(), wants_grad
        record.misalignment = x.data_ptr() % 16
        for dim in zip(x.shape, x.stride(), strict=True):
            dims.extend(dim)
    device, index = device_code(operands[0])
    block = OperandBlock(
        libtorch=ctypes.addressof(lib),
        operands=len(operands),
        records=ctypes.addressof(records),
        dims=dims.buffer_info()[0],
        device=device,
        device_index=index,
        tuple=id(tuple),
        tensor=id(torch.Tensor),
        parameter=id(torch.nn.Parameter),
    )
    module = load_file(
        "native/kernels/operands",
        ("are_alike",),
        IMPL_OFFSET=impl_offset(),
        RECORD_BYTES=ctypes.sizeof(OperandRecord),
        **{name: CPYTHON_OFFSETS[name] for name in ("OBJECT_TYPE", "TUPLE_LENGTH", "TUPLE_ITEMS")},
    )
    return make_fastcall(module, "are_alike", block, lib, records, dims)
