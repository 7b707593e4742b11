"""The CUDA driver through ctypes: load machine code and launch it.

Triton's own launcher is C code that it compiles at the first launch, which takes seconds and a C compiler, and each
launch through it costs more host time than a small step. Kernels that need more than arguments and a grid, and
devices without this driver (ROCm), take Triton's launcher.
"""

from __future__ import annotations

import ctypes
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from .native_launch import NULLS, make_native_launch

__all__ = ["driver_launch", "launch_of", "permitted_in_captures"]

_RELAXED = 2  # CU_STREAM_CAPTURE_MODE_RELAXED
_FORMATS = {"i64": "q", "i32": "i4x", "fp64": "d", "fp32": "f4x"}  # each argument takes 8 bytes
_REALS = {"fp64": ctypes.c_double, "fp32": ctypes.c_float}
_MAX_SHARED = 48 << 10  # bytes of shared memory that a kernel may use without asking for it

Launch = Callable[[int, int, Sequence[Any]], None]
"""`launch(blocks, stream, arguments)`; addresses are integers."""


@cache
def _driver() -> Any:
    """Return the library of the driver, or None."""
    try:
        library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        pointer = ctypes.c_void_p
        # cuLaunchKernel has no types: their checks would take longer than the call itself.
        library.cuModuleLoadData.argtypes = [pointer, ctypes.c_char_p]
        library.cuModuleGetFunction.argtypes = [pointer, pointer, ctypes.c_char_p]
        library.cuGetErrorName.argtypes = [ctypes.c_int, pointer]
        library.cuDevicePrimaryCtxRetain.argtypes = [pointer, ctypes.c_int]
        library.cuCtxGetCurrent.argtypes = [pointer]
        library.cuCtxSetCurrent.argtypes = [pointer]
        library.cuThreadExchangeStreamCaptureMode.argtypes = [pointer]
    except (OSError, AttributeError):
        return None
    return library


@contextmanager
def permitted_in_captures() -> Iterator[None]:
    """Let this thread load machine code and allocate pinned memory while a CUDA graph is captured, in any thread.

    The driver forbids that, and ends the capture, because such calls may wait for the device.
    """
    library, mode = _driver(), ctypes.c_int(_RELAXED)
    if library is None:
        yield
        return
    is_changed = library.cuThreadExchangeStreamCaptureMode(ctypes.byref(mode)) == 0
    try:
        yield
    finally:
        if is_changed:
            library.cuThreadExchangeStreamCaptureMode(ctypes.byref(mode))


def driver_launch(kernel: Any, kinds: Sequence[str], device: int) -> Launch | None:
    """Load a compiled kernel on a device, which must be the current one.

    Args:
        kernel: what `triton.compile` returned.
        kinds: the Triton type of each argument.
        device: the index of the device.

    Returns:
        The function that launches the kernel; None where Triton's launcher must do it.
    """
    library, facts = _driver(), kernel.metadata
    is_plain = (
        kernel.metadata.target.backend == "cuda"
        and facts.shared <= _MAX_SHARED
        and facts.num_ctas == 1
        and all(kind.startswith("*") or kind in _FORMATS for kind in kinds)
        and not any(
            getattr(facts, name, 0)
            for name in ("launch_cooperative_grid", "launch_pdl", "global_scratch_size", "profile_scratch_size")
        )
    )
    if library is None or not is_plain:
        return None
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    image, name = kernel.asm["cubin"], facts.name.encode()
    with permitted_in_captures():
        _call(device, library.cuModuleLoadData, ctypes.byref(module), image)
        _call(device, library.cuModuleGetFunction, ctypes.byref(function), module, name)
    return launch_of(library.cuLaunchKernel, function, 32 * facts.num_warps, facts.shared, kinds, device)


def launch_of(
    launch_kernel: Any, function: ctypes.c_void_p, threads: int, shared: int, kinds: Sequence[str], device: int
) -> Launch:
    """Return the function that launches a loaded kernel.

    Args:
        launch_kernel: cuLaunchKernel, or a function of C with its arguments.
        function: the handle of the kernel.
        threads: the threads of a block.
        shared: the bytes of shared memory.
        kinds: the Triton type of each argument.
        device: the index of the device.
    """
    formats = "".join("Q" if kind.startswith("*") else _FORMATS[kind] for kind in kinds)
    pack = struct.Struct(f"=qQ{formats}8x").pack  # the blocks, the stream, the arguments, and a word of 0
    count = len(kinds)
    start = make_native_launch(launch_kernel, function, threads, shared, count)
    pointers_to = ctypes.c_void_p * (count + NULLS)

    def launch(blocks: int, stream: int, arguments: Sequence[Any]) -> None:
        try:
            words = pack(blocks, stream, *arguments)
        except OverflowError:  # a double beyond the largest float32
            words = pack(blocks, stream, *(_rounded(x, kind) for x, kind in zip(arguments, kinds, strict=True)))
        if start is None or not start(words):
            values = ctypes.create_string_buffer(words)
            pointers = pointers_to(*(ctypes.addressof(values) + 16 + 8 * min(k, count) for k in range(count + NULLS)))
            to = ctypes.c_void_p(stream)
            _call(device, launch_kernel, function, blocks, 1, 1, threads, 1, 1, shared, to, pointers, None)

    return launch


def _rounded(x: Any, kind: str) -> Any:
    """Round a number to its type, where infinity is a result."""
    return _REALS[kind](x).value if kind in _REALS else x


def _call(device: int, function: Any, *arguments: Any) -> None:
    """Call the driver; do so again where the thread had no context, or that of another device."""
    result = function(*arguments)
    if result and _has_changed_context(device):
        result = function(*arguments)
    if result:
        name = ctypes.c_char_p()
        _driver().cuGetErrorName(result, ctypes.byref(name))
        raise RuntimeError(f"the CUDA driver could not run a kernel: {(name.value or b'?').decode()} ({result})")


def _has_changed_context(device: int) -> bool:
    """Make PyTorch's context of a device that of the thread, and return True; or return False where it is already.

    A thread of autograd may have none, because PyTorch makes one current in its first call of CUDA's runtime.
    """
    library, current, own = _driver(), ctypes.c_void_p(), ctypes.c_void_p()
    if library.cuCtxGetCurrent(ctypes.byref(current)) or library.cuDevicePrimaryCtxRetain(ctypes.byref(own), device):
        return False
    return current.value != own.value and library.cuCtxSetCurrent(own) == 0
