"""The sum of the squares of many tensors on the CPU, in one native call."""

from __future__ import annotations

import ctypes
import functools
from array import array
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ...torch_internals import PLAIN_TYPES, is_transforming
from ..backend import forced_backend, warn_fallback
from ..layout import dense
from ..native.compiler import CompiledModule, load_file
from ..native.gradients import can_check, native_step
from ..native.tables import LaunchRecord
from ..specs import ParamState
from .loss_lines import PARALLEL_MIN_ELEMENTS
from .tables import SquaresTable
from .work_sharing import make_counters, work

__all__ = ["GradientSquares", "sum_of_squares"]

_LEAST_BITS, _MOST_BITS = 14, 18  # of the number of elements of a block
_KINDS = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}


def sum_of_squares(tensors: Sequence[Tensor]) -> tuple[float, list[Tensor]]:
    """Return the sum of the squares of all elements, in float64, and the tensors that it leaves out.

    The sum does not depend on the number of threads. It takes dense real tensors on the CPU, in one pass.
    """
    if not _is_available():
        return 0.0, list(tensors)
    taken, rest = list(tensors), []
    kinds = [_KINDS.get(x.dtype, -1) for x in taken]
    addresses = (
        array("q", map(Tensor.data_ptr, taken)) if min(kinds, default=0) >= 0 and _are_contiguous(taken) else None
    )
    if addresses is None or 0 in addresses:  # a tensor without memory is empty, or on no device
        taken, rest = [x for x in tensors if _is_plain(x)], [x for x in tensors if not _is_plain(x)]
        kinds, addresses = [_KINDS[x.dtype] for x in taken], array("q", map(Tensor.data_ptr, taken))
    return _Sum(tuple(map(Tensor.numel, taken)), kinds, addresses)(), rest


class GradientSquares:
    """The sum of the squares of the gradients of some parameters, which machine code finds at each call.

    Asking two thousand parameters in Python takes ten times longer than to add their squares.

    Args:
        params: the parameters.
        states: those with a gradient, which `sum_of_squares` must take, by their index.
    """

    def __init__(self, params: Sequence[Tensor], states: Mapping[int, ParamState]) -> None:
        gradients = [state.g for state in states.values()]
        addresses = array("q", bytes(8 * len(states)))
        records = (LaunchRecord * 1)()
        records[0].gradients = addresses.buffer_info()[0]
        self._find = native_step(params, states, records, [list(states)], writes=False)
        self._sum = _Sum(tuple(map(Tensor.numel, gradients)), [_KINDS[g.dtype] for g in gradients], addresses)
        self.dtype = torch.float64 if any(g.dtype == torch.float64 for g in gradients) else torch.float32

    @classmethod
    def of(cls, params: Sequence[Tensor]) -> GradientSquares | None:
        """Return the sum for the gradients of parameters, or None where Python has to ask for each."""
        states = {i: ParamState(p, p.grad, [], []) for i, p in enumerate(params) if p.grad is not None}
        is_native = (
            len(states) > 0
            and _is_available()
            and all(_is_plain(state.g) for state in states.values())
            and can_check(params, states, [list(states)])
        )
        return cls(params, states) if is_native else None

    def __call__(self, params: list[Tensor]) -> float | None:
        """Return the sum, or None where a parameter or a gradient has changed other than in its values."""
        return self._sum() if _is_available() and self._find(params) else None


class _Sum:
    """The sum of the squares of tensors of known sizes, kinds and addresses."""

    def __init__(self, sizes: tuple[int, ...], kinds: Sequence[int], addresses: array[int]) -> None:
        self._count, owners, starts = _blocks(sizes)
        self._is_small = sum(sizes) <= PARALLEL_MIN_ELEMENTS
        elements, kinds_of, sums = array("q", sizes), array("q", kinds), array("d", bytes(8 * self._count))
        self._keep = (owners, starts, elements, kinds_of, addresses, sums)
        self._table = SquaresTable(
            tensors=owners.buffer_info()[0],
            starts=starts.buffer_info()[0],
            sizes=elements.buffer_info()[0],
            addresses=addresses.buffer_info()[0],
            kinds=kinds_of.buffer_info()[0],
            sums=sums.buffer_info()[0],
        )

    def __call__(self) -> float:
        module = _module()
        if not self._count or module is None:
            return 0.0
        threads = 1 if self._is_small else torch.get_num_threads()
        counters = make_counters(threads)
        for name, value in work(counters, self._count).items():
            setattr(self._table, name, value)
        at = ctypes.addressof(self._table)
        module.parallel("sum_blocks", at, threads)
        module.call["finish"](at)
        return float(self._table.total)


def _is_available() -> bool:
    return not is_transforming() and forced_backend() in (None, "cpu") and _module() is not None


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
    """Return the number of blocks, and for each its tensor and its first element.

    Long runs are read faster, and threads share a tensor of 2^20 elements in blocks of 2^15.
    """
    owners, starts = array("q"), array("q")
    for i, size in enumerate(sizes):
        first = range(0, size, 1 << min(max(_LEAST_BITS, size.bit_length() - 6), _MOST_BITS))
        owners.extend([i] * len(first))
        starts.extend(first)
    return len(starts), owners, starts
