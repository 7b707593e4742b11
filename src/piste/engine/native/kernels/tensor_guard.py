"""What machine code asks libtorch about a tensor.

`lib` is a view of `Libtorch`. The handle of a tensor is the address of a word that holds its TensorImpl. The layout,
sizes and strides of a tensor on another device, or of another layout, throw in C++: ask `is_strided_cpu` or
`is_strided_on` first.
"""

from __future__ import annotations

from numba import int64

from ..intrinsics import call_address, inline, pointer, stack_alloc

__all__ = [
    "BYTE",
    "is_strided_cpu",
    "is_strided_on",
    "is_unresolved",
    "read",
]

BYTE = 0xFF  # a C++ bool leaves the other bits of its word undefined


@inline
def read(function, handle):
    """The result that a function of AOTInductor's C interface stores, which may be as short as a byte."""
    cell = stack_alloc(1)
    result = pointer(cell, int64)
    result[0] = 0
    call_address(function, handle, cell)
    return result[0]


@inline
def is_strided_cpu(lib, handle):
    """Whether a tensor is on the CPU, and strided."""
    return read(lib.device, handle) == 0 and read(lib.layout, handle) == 0


@inline
def is_strided_on(lib, handle, device, index):
    """Whether a tensor is on a device, and strided; a negative index stands for all devices of the type."""
    return (
        read(lib.device, handle) == device
        and (index < 0 or read(lib.device_index, handle) == index)
        and read(lib.layout, handle) == 0
    )


@inline
def is_unresolved(lib, handle):
    """Whether a negation or a conjugation of the elements is pending."""
    return ((call_address(lib.is_neg, handle) | call_address(lib.is_conj, handle)) & BYTE) != 0
