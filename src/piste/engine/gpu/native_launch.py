"""A launch through the CUDA driver in one native call; ctypes takes several times as long to pass its arguments."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from ..native.compiler import load_file
from ..native.fastcall import make_fastcall
from ..native.native_guard import native_guard
from ..native.openmp import function_address
from ..native.torch_internals import CPYTHON_OFFSETS
from .tables import LaunchBlock

__all__ = ["NULLS", "make_native_launch"]

NULLS = 4  # null pointers behind the arguments; Triton's kernels take addresses of scratch memory there
_MOST = 128  # pointers


def make_native_launch(
    launch_kernel: Any, function: ctypes.c_void_p, threads: int, shared: int, arguments: int
) -> Callable[[bytes], bool] | None:
    """Return a function that launches a kernel, or None where machine code can't.

    Args:
        launch_kernel: cuLaunchKernel.
        function: the handle of the kernel.
        threads: the threads of a block.
        shared: the bytes of shared memory.
        arguments: the number of arguments.

    Returns:
        A function of words: the blocks, the stream, the value of each argument, and a 0. It is false where the driver
        reports an error.
    """
    if native_guard() is None or arguments + NULLS > _MOST:
        return None
    block = LaunchBlock(
        launch_kernel=function_address(launch_kernel),
        save_thread=function_address(ctypes.pythonapi.PyEval_SaveThread),
        restore_thread=function_address(ctypes.pythonapi.PyEval_RestoreThread),
        function=function.value,
        threads=threads,
        shared=shared,
        arguments=arguments,
    )
    content = CPYTHON_OFFSETS["BYTES_CONTENT"]
    module = load_file("gpu/kernels/launch", ("launch",), BYTES_CONTENT=content, MOST=_MOST, NULLS=NULLS)
    return make_fastcall(module, "launch", block)
