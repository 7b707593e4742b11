"""A native test for an incoming gradient of 1, for which the backward pass returns the kernel's gradients unchanged.

The same test in Python takes a few times as long.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

import torch
from torch import Tensor

from ..native.compiler import load_file
from ..native.fastcall import make_fastcall
from ..native.native_guard import native_guard
from ..native.torch_internals import dtype_code, impl_offset
from .tables import IsOneBlock

__all__ = ["make_is_one"]

_DTYPES = ("float32", "float64", "bfloat16", "float16")


@functools.cache
def make_is_one() -> Callable[[Tensor], bool]:
    """Return a predicate: is this tensor all ones? It may return False for a tensor that is slow to check."""
    lib = native_guard()
    if lib is None:
        return lambda grad: False
    codes = {name: dtype_code(getattr(torch, name)) for name in _DTYPES}
    block = IsOneBlock(libtorch=ctypes.addressof(lib), **codes)
    return make_fastcall(load_file("cpu/kernels/is_one", ("is_one",), IMPL_OFFSET=impl_offset()), "is_one", block, lib)
