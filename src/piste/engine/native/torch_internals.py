"""Private names of PyTorch and CPython on which the machine code of the CPU backend relies.

Asking Python about a tensor costs more than a small kernel. libtorch exports the answers: AOTInductor's C interface,
which is kept stable, and a few C++ functions by their mangled names. `native_guard` verifies them by a self-test before
any result depends on them; without a name, or where the self-test fails, Python asks.

A tensor's handle, for most of these functions, is the address of a word that holds its TensorImpl (`Tensor._cdata`).
There is such a word in the Python object, `impl_offset()` bytes behind its address.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from pathlib import Path

import torch
from torch import Tensor

from .openmp import function_address
from .tables import Libtorch

__all__ = [
    "CPYTHON_OFFSETS",
    "SYMBOLS",
    "device_code",
    "dtype_code",
    "impl_offset",
    "resolve_libtorch",
    "storage_is_shared",
]

SYMBOLS = {
    "is_grad_enabled": ("c10", "_ZN3c108GradMode10is_enabledEv"),
    "requires_grad": ("c10", "_ZNK3c1010TensorImpl13requires_gradEv"),
    "get_num_threads": ("torch_cpu", "_ZN2at15get_num_threadsEv"),
    "has_storage": ("c10", "_ZNK3c1010TensorImpl11has_storageEv"),
    "grad": ("c10", "_ZNK3c1010TensorImpl4gradEv"),
    "bump_version": ("torch_cpu", "_ZN5torch8autograd4impl12bump_versionERKN2at6TensorE"),
    "is_neg": ("torch_cpu", "_ZN2at6native6is_negERKNS_6TensorE"),
    "is_conj": ("torch_cpu", "_ZN2at6native7is_conjERKNS_6TensorE"),
    "is_defined": ("torch_cpu", "aoti_torch_is_defined"),
    "device": ("torch_cpu", "aoti_torch_get_device_type"),
    "device_index": ("torch_cpu", "aoti_torch_get_device_index"),
    "layout": ("torch_cpu", "aoti_torch_get_layout"),
    "dtype": ("torch_cpu", "aoti_torch_get_dtype"),
    "dim": ("torch_cpu", "aoti_torch_get_dim"),
    "sizes": ("torch_cpu", "aoti_torch_get_sizes"),
    "strides": ("torch_cpu", "aoti_torch_get_strides"),
    "address": ("torch_cpu", "aoti_torch_get_data_ptr"),
}
"""The library and the symbol of each function in `Libtorch`."""
CPYTHON_OFFSETS = {
    "OBJECT_TYPE": object.__basicsize__ - 8,
    "TUPLE_LENGTH": object.__basicsize__,
    "TUPLE_ITEMS": tuple.__basicsize__,
    "BYTES_CONTENT": bytes.__basicsize__ - 1,
}
"""Bytes from the address of an object of CPython to its type, length, items and content."""


@functools.cache
def resolve_libtorch() -> Libtorch | None:
    """Return the address of each function, or None where one is missing or this Python has another object layout."""
    has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    if sys.implementation.name != "cpython" or sys.byteorder != "little" or not has_gil or not impl_offset():
        return None
    suffix = {"linux": "so", "darwin": "dylib"}.get(sys.platform)
    folder = Path(torch.__file__).parent / "lib"
    try:
        libraries = {name: ctypes.CDLL(str(folder / f"lib{name}.{suffix}")) for name in ("c10", "torch_cpu")}
        functions = {name: getattr(libraries[library], symbol) for name, (library, symbol) in SYMBOLS.items()}
    except (OSError, AttributeError):
        return None
    return Libtorch(**{name: function_address(function) for name, function in functions.items()})


@functools.cache
def impl_offset() -> int:
    """Return where in a tensor object the address of its TensorImpl is: the one word that holds it; 0 if unknown."""
    words = Tensor.__basicsize__ // 8
    try:
        common = set(range(words))
        for example in [torch.empty((), device="cpu") for _ in range(3)]:
            memory = (ctypes.c_int64 * words).from_address(id(example))
            common &= {k for k, word in enumerate(memory) if word == example._cdata}
    except AttributeError:
        return 0
    return 8 * common.pop() if len(common) == 1 else 0


@functools.cache
def dtype_code(dtype: torch.dtype) -> int:
    """Return libtorch's number of a dtype."""
    return _read("dtype", torch.empty(0, dtype=dtype, device="cpu"))


def device_code(x: Tensor) -> tuple[int, int]:
    """Return libtorch's number of a tensor's type of device, and the index of the device: -1 where it has none."""
    return _read("device", x), _read("device_index", x)


def _read(function: str, x: Tensor) -> int:
    """Return the number of 32 bits that a function of AOTInductor's C interface stores."""
    lib = resolve_libtorch()
    assert lib is not None
    handle, result = ctypes.c_int64(x._cdata), ctypes.c_int32()
    read = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p)(getattr(lib, function))
    read(ctypes.addressof(handle), ctypes.addressof(result))
    return result.value


def storage_is_shared(storage: torch.UntypedStorage) -> bool:
    """Return whether anything other than this object refers to a storage; True if PyTorch can't tell."""
    try:
        return torch._C._storage_Use_Count(storage._cdata) > 1
    except AttributeError:
        return True
