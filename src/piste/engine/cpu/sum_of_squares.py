"""The sum of the squares of many tensors on the CPU, in one native call."""

from __future__ import annotations

import ctypes
import functools
from array import array
from collections.abc import Sequence

import torch
from torch import Tensor

from ...torch_internals import PLAIN_TYPES, is_transforming
from ..backend import forced_backend, warn_fallback
from ..layout import dense
from ..native.compiler import CompiledModule, load_file
from .loss_lines import PARALLEL_MIN_ELEMENTS
from .tables import SquaresTable
from .work_sharing import make_counters, work

__all__ = ["sum_of_squares"]

BLOCK = 1 << 14  # elements, as in the kernel
_KINDS = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}


def sum_of_squares(tensors: Sequence[Tensor]) -> tuple[float, list[Tensor]]:
    """Return the sum of the squares of all elements, in float64, and the tensors that it leaves out.

    The sum does not depend on the number of threads. It takes dense real tensors on the CPU, in one pass.
    """
    module = None if is_transforming() or forced_backend() not in (None, "cpu") else _module()
    if module is None:
        return 0.0, list(tensors)
    taken, rest = list(tensors), []
    kinds = [_KINDS.get(x.dtype, -1) for x in taken]
    addresses = (
        array("q", map(Tensor.data_ptr, taken)) if min(kinds, default=0) >= 0 and _are_contiguous(taken) else None
    )
    if addresses is None or 0 in addresses:  # a tensor without memory is empty, or on no device
        taken, rest = [x for x in tensors if _is_plain(x)], [x for x in tensors if not _is_plain(x)]
        kinds, addresses = [_KINDS[x.dtype] for x in taken], array("q", map(Tensor.data_ptr, taken))
    sizes = tuple(map(Tensor.numel, taken))
    count, owners, starts = _blocks(sizes)
    if not count:
        return 0.0, rest
    threads = torch.get_num_threads() if sum(sizes) > PARALLEL_MIN_ELEMENTS else 1
    elements, kinds_of = array("q", sizes), array("q", kinds)
    sums, counters = array("d", bytes(8 * count)), make_counters(threads)
    table = SquaresTable(
        **work(counters, count),
        tensors=owners.buffer_info()[0],
        starts=starts.buffer_info()[0],
        sizes=elements.buffer_info()[0],
        addresses=addresses.buffer_info()[0],
        kinds=kinds_of.buffer_info()[0],
        sums=sums.buffer_info()[0],
    )
    module.parallel("sum_blocks", ctypes.addressof(table), threads)
    module.call["finish"](ctypes.addressof(table))
    return table.total, rest


@functools.cache
def _module() -> CompiledModule | None:
    """Return the kernel, or None if it can't be made."""
    try:
        return load_file("cpu/kernels/sum_of_squares", ("sum_blocks", "finish"))
    except ImportError:  # the step itself warns that Numba is missing
        return None
    except Exception as error:
        warn_fallback(f"the kernel of the norm could not be made ({error})")
        return None


def _are_contiguous(tensors: Sequence[Tensor]) -> bool:
    """Return whether the kernel takes all tensors, as it does nearly always; faster than to ask for each."""
    if not PLAIN_TYPES.issuperset(map(type, tensors)) or any(index >= 0 for index in map(Tensor.get_device, tensors)):
        return False
    try:
        return all(map(Tensor.is_contiguous, tensors))
    except RuntimeError:  # a sparse tensor has no such property
        return False


def _is_plain(x: Tensor) -> bool:
    return (
        type(x) in PLAIN_TYPES
        and x.dtype in _KINDS
        and x.is_cpu
        and x.layout == torch.strided
        and (x.is_contiguous() or dense(x.shape, x.stride()))
    )


@functools.lru_cache(maxsize=8)
def _blocks(sizes: tuple[int, ...]) -> tuple[int, array[int], array[int]]:
    """Return the number of blocks, and for each its tensor and its first element."""
    owners, starts = array("q"), array("q")
    for i, size in enumerate(sizes):
        first = range(0, size, BLOCK)
        owners.extend([i] * len(first))
        starts.extend(first)
    return len(starts), owners, starts
