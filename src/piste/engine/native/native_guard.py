"""Whether machine code may ask libtorch about tensors: its answers are compared with known ones at first use."""

from __future__ import annotations

import ctypes
import functools
import os
from array import array
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .compiler import has_compiler, load_file
from .fastcall import make_fastcall
from .tables import Libtorch, TensorFacts
from .torch_internals import CPYTHON_OFFSETS, dtype_code, impl_offset, resolve_libtorch

__all__ = ["native_guard"]


@functools.cache
def native_guard() -> Libtorch | None:
    """Return the functions of libtorch that machine code may call, or None where Python asks about tensors.

    It is None if `PISTE_FAST_PATH` is 0, if Numba can't compile, if a private name of PyTorch or CPython is
    missing, or if the self-test fails: the guard's answers about tensors whose answers are known.
    """
    if os.environ.get("PISTE_FAST_PATH") == "0" or not has_compiler():
        return None
    lib = resolve_libtorch()
    return lib if lib is not None and _passes_self_test(lib) else None


def _passes_self_test(lib: Libtorch) -> bool:
    with torch.device("cpu"):  # whatever the default device is
        return _describes_examples(lib)


def _describes_examples(lib: Libtorch) -> bool:
    try:
        facts = TensorFacts(libtorch=ctypes.addressof(lib))
        module = load_file("native/kernels/self_test", ("describe",), IMPL_OFFSET=impl_offset(), **CPYTHON_OFFSETS)
        describe = make_fastcall(module, "describe", facts, lib)
        return (
            len({dtype_code(dtype) for dtype in _DTYPES}) == len(_DTYPES)
            and all(_is_described(x, facts, describe) for x in _examples())
            and _are_refused(facts, describe)
            and _version_is_counted(describe)
        )
    except (AttributeError, RuntimeError):
        return False


_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.complex64)
NO_INDEX = 0xFFFFFFFF  # -1 in 32 bits
_KEEP, _COUNT = (array("q", [word]).tobytes() for word in (0, 1))  # whether `describe` counts up the version


def _examples() -> list[Tensor]:
    """Return tensors on the CPU that differ in each answer: dtype, sizes, strides, pending sign, gradient."""
    z = torch.zeros(3, 2, dtype=torch.complex64)
    leaf = torch.zeros(4, requires_grad=True)
    leaf.grad = torch.ones(4)
    return [
        torch.zeros(2, 3),
        torch.zeros(4, 6, dtype=torch.float64)[1::2, ::3],
        torch.zeros(3, 2, dtype=torch.bfloat16).t(),
        torch.zeros((), dtype=torch.float16).expand(5, 4),
        torch.zeros(0, 2, dtype=torch.int64),
        z.conj().imag,  # negated
        z.conj(),
        leaf,
    ]


def _is_described(x: Tensor, facts: TensorFacts, describe: Callable[..., bool]) -> bool:
    """Compare the guard's answers about one tensor with PyTorch's, with gradients enabled and disabled."""
    grad = x.grad if x.is_leaf else None
    for is_enabled in (True, False):
        with torch.set_grad_enabled(is_enabled):
            is_resolved = describe((x, x), _KEEP)
        is_same = (
            is_resolved == (not x.is_neg() and not x.is_conj())
            and facts.type == id(type(x))
            and facts.length == 2
            and facts.is_grad_enabled == is_enabled
            and facts.threads == torch.get_num_threads()
            and facts.requires_grad == x.requires_grad
            and facts.has_storage == 1
            and facts.has_grad == (grad is not None)
            and facts.grad_address == (0 if grad is None else grad.data_ptr())
            and facts.is_neg == x.is_neg()
            and facts.is_conj == x.is_conj()
            and facts.device_index == NO_INDEX
            and facts.dtype == dtype_code(x.dtype)
            and facts.dim == x.dim()
            and _integers(facts.sizes, x.dim()) == list(x.shape)
            and _integers(facts.strides, x.dim()) == list(x.stride())
            and facts.address == x.data_ptr()
        )
        if not is_same:
            return False
    return True


def _are_refused(facts: TensorFacts, describe: Callable[..., bool]) -> bool:
    """Check that a tensor on another device, one of another layout, and a wrapper without storage are refused."""
    x = torch.zeros(2)
    is_refused = not describe((x.to("meta"),), _KEEP) and facts.device != 0 and facts.layout == 0
    is_refused &= not describe((x.to_sparse(),), _KEEP) and facts.device == 0 and facts.layout != 0
    return is_refused and facts.has_storage == 0


def _integers(address: int, count: int) -> list[int]:
    return list((ctypes.c_int64 * count).from_address(address)) if count else []


def _version_is_counted(describe: Callable[..., Any]) -> bool:
    """Check that `bump_version` counts the version of a tensor up by one, as autograd reads it."""
    x = torch.zeros(1)
    before = x._version
    describe((x,), _COUNT)
    return x._version == before + 1
