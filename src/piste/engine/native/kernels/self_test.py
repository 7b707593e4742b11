"""Everything that the native guard reads from one tensor, for comparison with the facts (see native_guard)."""

from __future__ import annotations

from numba import int64

from ..intrinsics import call_address, pointer, view
from ..tables import Libtorch, TensorFacts
from .tensor_guard import BYTE, is_strided_cpu, is_unresolved, read

IMPL_OFFSET = 0  # from the address of a tensor object to its handle
OBJECT_TYPE, TUPLE_LENGTH, TUPLE_ITEMS, BYTES_CONTENT = 0, 0, 0, 0  # offsets in objects of CPython


def describe(block, arguments) -> int:
    """Fill the TensorFacts of a tensor, the first of a tuple; 1 where it is strided, on the CPU and resolved.

    The arguments are the tuple and a bytes object of one word: 1 to count up the tensor's version.
    """
    facts = view(block, TensorFacts)
    lib = view(facts.libtorch, Libtorch)
    facts.length = pointer(arguments[0] + TUPLE_LENGTH, int64)[0]
    tensor = pointer(arguments[0] + TUPLE_ITEMS, int64)[0]
    facts.type = pointer(tensor + OBJECT_TYPE, int64)[0]
    handle = tensor + IMPL_OFFSET
    impl = pointer(handle, int64)[0]
    facts.is_grad_enabled = call_address(lib.is_grad_enabled) & BYTE
    facts.threads = call_address(lib.get_num_threads) & 0xFFFFFFFF
    facts.requires_grad = call_address(lib.requires_grad, impl) & BYTE
    facts.has_storage = call_address(lib.has_storage, impl) & BYTE
    facts.is_neg = call_address(lib.is_neg, handle) & BYTE
    facts.is_conj = call_address(lib.is_conj, handle) & BYTE
    facts.device, facts.layout = read(lib.device, handle), read(lib.layout, handle)
    facts.device_index = read(lib.device_index, handle)
    if not is_strided_cpu(lib, handle):
        return 0
    facts.dtype, facts.dim = read(lib.dtype, handle), read(lib.dim, handle)
    facts.sizes, facts.strides = read(lib.sizes, handle), read(lib.strides, handle)
    facts.address = read(lib.address, handle)
    gradient = call_address(lib.grad, impl)
    facts.has_grad = read(lib.is_defined, gradient) & BYTE
    facts.grad_address = read(lib.address, gradient) if facts.has_grad != 0 else 0
    if pointer(arguments[1] + BYTES_CONTENT, int64)[0] != 0:
        call_address(lib.bump_version, handle)
    return 0 if is_unresolved(lib, handle) else 1
