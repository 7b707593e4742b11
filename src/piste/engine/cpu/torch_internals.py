"""The functions of libtorch that machine code asks about tensors, by their addresses.

Asking in Python costs more than a small kernel. libtorch exports what is needed: AOTInductor's C interface, which is
kept stable, and a few C++ functions by name. Where one is missing `functions` says so, and Python asks.

A tensor's handle, for most of these, is the address of a word that holds its TensorImpl (`Tensor._cdata`), as there is
one in its Python object, `offset()` behind the object's own address.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from pathlib import Path

import torch
from torch import Tensor

from .openmp import function_address

__all__ = ["NAMES", "PLAIN", "functions", "number", "offset", "question"]

PLAIN = {Tensor, torch.nn.Parameter}
"""The types of tensors that are nothing else besides."""
_SYMBOLS = {
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
    "layout": ("torch_cpu", "aoti_torch_get_layout"),
    "dtype": ("torch_cpu", "aoti_torch_get_dtype"),
    "dim": ("torch_cpu", "aoti_torch_get_dim"),
    "sizes": ("torch_cpu", "aoti_torch_get_sizes"),
    "strides": ("torch_cpu", "aoti_torch_get_strides"),
    "address": ("torch_cpu", "aoti_torch_get_data_ptr"),
}
NAMES = tuple(_SYMBOLS)


@functools.cache
def functions() -> dict[str, int] | None:
    """The address of each function, or None where one is missing, or this Python is not laid out as expected."""
    has_lock = getattr(sys, "_is_gil_enabled", lambda: True)()
    if sys.implementation.name != "cpython" or sys.byteorder != "little" or not has_lock or not offset():
        return None
    suffix = {"linux": "so", "darwin": "dylib"}.get(sys.platform)
    folder = Path(torch.__file__).parent / "lib"
    try:
        libraries = {name: ctypes.CDLL(str(folder / f"lib{name}.{suffix}")) for name in ("c10", "torch_cpu")}
        found = {name: getattr(libraries[library], symbol) for name, (library, symbol) in _SYMBOLS.items()}
    except (OSError, AttributeError):
        return None
    return {name: function_address(function) for name, function in found.items()}


@functools.cache
def offset() -> int:
    """Where in a Python tensor the address of its TensorImpl is: the one word of the object that holds it; 0: none."""
    words = Tensor.__basicsize__ // 8
    examples = [torch.empty(()) for _ in range(3)]
    places = [
        {k for k, word in enumerate((ctypes.c_int64 * words).from_address(id(x))) if word == x._cdata} for x in examples
    ]
    common = set.intersection(*places)
    return 8 * common.pop() if len(common) == 1 else 0


@functools.cache
def number(dtype: torch.dtype) -> int:
    """How libtorch numbers a dtype."""
    known = functions()
    assert known is not None
    example, out = torch.empty(0, dtype=dtype), ctypes.c_int32()
    handle = ctypes.c_int64(example._cdata)
    ask = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p)(known["dtype"])
    ask(ctypes.addressof(handle), ctypes.addressof(out))
    return out.value


def question(about: str, handle: str, indent: int) -> list[str]:
    """Lines of a kernel: `answer[0]`, which lies at `out`, becomes what libtorch says; it may fill low bytes only."""
    return [f"{' ' * indent}answer[0] = 0", f"{' ' * indent}call2({about}, {handle}, out)"]
