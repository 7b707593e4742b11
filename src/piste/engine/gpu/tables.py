"""The argument blocks of machine code of the GPU backend on the host."""

from __future__ import annotations

import ctypes

from ..native.tables import words

__all__ = ["LaunchBlock"]


@words
class LaunchBlock(ctypes.Structure):
    """The argument block of `launch`."""

    launch_kernel: int  # address of cuLaunchKernel
    save_thread: int  # address of PyEval_SaveThread, which gives up the GIL
    restore_thread: int  # address of PyEval_RestoreThread
    function: int  # handle of the kernel
    threads: int  # of a block
    shared: int  # bytes of shared memory
    arguments: int  # their number
