"""A launch through the CUDA driver."""

from __future__ import annotations

from numba import int64

from ...native.intrinsics import address_of, call_address, pointer, stack_alloc, view
from ..tables import LaunchBlock

BYTES_CONTENT = 0  # offset in an object of CPython
MOST = 128  # arguments with the null pointers behind them
NULLS = 4
RESULT = 0xFFFFFFFF  # a C int leaves the other bits of its word undefined


def launch(block, arguments) -> int:
    """Launch a kernel without the GIL and return 1; or return 0 where the driver reports an error.

    The argument is a bytes object of words: blocks, stream, the values of the kernel's arguments, and a 0.
    """
    kernel = view(block, LaunchBlock)
    words, count = arguments[0] + BYTES_CONTENT, kernel.arguments
    given, pointers = pointer(words, int64), pointer(stack_alloc(MOST), int64)
    for k in range(count + NULLS):
        pointers[k] = words + 8 * (2 + (k if k < count else count))
    thread = call_address(kernel.save_thread)
    result = call_address(
        kernel.launch_kernel,
        kernel.function,
        given[0], 1, 1,
        kernel.threads, 1, 1,
        kernel.shared,
        given[1],
        address_of(pointers),
        0,
    )  # fmt: skip
    call_address(kernel.restore_thread, thread)
    return 1 if result & RESULT == 0 else 0
