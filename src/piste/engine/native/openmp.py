"""The OpenMP thread pool of PyTorch, on which parallel kernels run.

Kernels join PyTorch's own threads, which spin for a while after each operation. Threads of a second pool would compete
with them for the cores. The pool is found by the name of its library, and is absent where PyTorch doesn't use one of
the GNU interface (macOS, Windows) or where a fork left the threads behind in the parent process.
"""

from __future__ import annotations

import ctypes
import functools
import os
from array import array
from collections.abc import Callable
from pathlib import Path

import torch

__all__ = [
    "function_address",
    "openmp_parallel",
    "parallel_address",
    "parallel_address_cell",
    "thread_num_address",
    "why_single_threaded",
]

Parallel = Callable[[int, int, int, int], None]
"""`GOMP_parallel(function, argument, number of threads, flags)`."""

_forked = False
_parallel_address = array("q", [0])  # read by machine code, through `parallel_address_cell`


def _after_fork() -> None:
    # The threads stayed behind in the parent; waiting for them would never end.
    global _forked
    _forked = True
    _parallel_address[0] = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def openmp_parallel() -> Parallel | None:
    """Return GOMP_parallel of the OpenMP library that PyTorch runs on, or None without a thread pool."""
    return None if _forked else _openmp()[0]


def parallel_address() -> int:
    """Return the address of GOMP_parallel, for machine code; 0 without a thread pool."""
    return 0 if _forked else _openmp()[1]


def parallel_address_cell() -> int:
    """Return the address of a word that holds `parallel_address` at any time, also after a fork."""
    _parallel_address[0] = parallel_address()
    return _parallel_address.buffer_info()[0]


def thread_num_address() -> int:
    """Return the address of omp_get_thread_num, which gives the number of the calling thread; 0 if absent."""
    return _openmp()[2]


def why_single_threaded() -> str | None:
    """Return why kernels run on one thread whatever `torch.get_num_threads()` says, or None if they don't."""
    if _forked:
        return "the process is a fork, and PyTorch's threads stayed in its parent"
    if openmp_parallel() is None:
        return "PyTorch's thread pool has no GNU OpenMP interface (GOMP_parallel) in this process"
    return None


def function_address(function: object) -> int:
    """Return the address of a C function that ctypes has found."""
    return ctypes.cast(function, ctypes.c_void_p).value or 0  # type: ignore[arg-type]


@functools.cache
def _openmp() -> tuple[Parallel | None, int, int]:
    """Find GOMP_parallel, its address, and the address of omp_get_thread_num."""
    for path in _openmp_libraries():
        try:
            library = ctypes.CDLL(str(path))
            parallel, thread_num = library.GOMP_parallel, library.omp_get_thread_num
        except (OSError, AttributeError):
            continue
        parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        parallel.restype = None
        return parallel, function_address(parallel), function_address(thread_num)
    return None, 0, 0


def _openmp_libraries() -> list[Path]:
    """List the OpenMP libraries that this process has loaded, PyTorch's own first."""
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return []
    paths = {line.split(maxsplit=5)[5] for line in maps.splitlines() if line.count(" ") >= 5 and "omp" in line}
    libraries = [Path(path) for path in paths if Path(path).name.startswith(("libgomp", "libomp", "libiomp"))]
    home = str(Path(torch.__file__).parent)
    return sorted(libraries, key=lambda path: not str(path).startswith(home))
