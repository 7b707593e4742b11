"""A small loss in one native call, which checks the operands through libtorch and runs the kernel.

The cost of a small loss is dominated by a dozen attribute lookups in Python, which this call avoids.
"""

from __future__ import annotations

import ctypes
import sys
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ...formula.expression import is_number
from ..native.compiler import CompiledModule, load_file
from ..native.fastcall import make_fastcall
from ..native.native_guard import native_guard
from ..native.openmp import parallel_address_cell, thread_num_address
from ..native.tables import columns_from
from ..native.torch_internals import CPYTHON_OFFSETS, dtype_code, impl_offset
from ..specs import MANY_ELEMENTS, SHORT_ROWS, LossKernelSpec
from .loss_lines import BLOCK, CHUNKS_PER_THREAD, FAST_MAX_ELEMENTS, PARALLEL_MIN_ELEMENTS, result_code
from .tables import FastLossBlock, LossNumbers, LossTable
from .work_sharing import COUNTER_STRIDE

__all__ = ["make_fast_loss", "supports"]

_WHOLE, _ROW_EACH, _CLASS_EACH = range(3)  # an operand of the first one's shape, of its rows, or of its classes
_SHAPES = {"number": _ROW_EACH, "index": _ROW_EACH, "shared": _CLASS_EACH}
MAX_COLUMNS, MAX_OPTIONS, MAX_SCRATCH_CLASSES, MAX_THREADS = 14, 16, 4096, FAST_MAX_ELEMENTS // BLOCK
_CONSTANTS = {
    "BLOCK": BLOCK,
    "CHUNKS_PER_THREAD": CHUNKS_PER_THREAD,
    "PARALLEL_FROM": PARALLEL_MIN_ELEMENTS,
    "MAX_ELEMENTS": FAST_MAX_ELEMENTS,
    "SHORT_ROWS": SHORT_ROWS,
    "MANY_ELEMENTS": MANY_ELEMENTS,
    "MAX_THREADS": MAX_THREADS,
    "FIRST_COLUMN": columns_from(LossTable),
    "FIRST_OPTION": columns_from(LossNumbers),
    "TABLE_WORDS": columns_from(LossTable) + MAX_COLUMNS,
    "NUMBER_WORDS": columns_from(LossNumbers) + MAX_OPTIONS,
    "PARTIAL_WORDS": 2 * (2 * FAST_MAX_ELEMENTS // BLOCK + 1),
    "COUNTER_WORDS": COUNTER_STRIDE * MAX_THREADS,
}


def make_fast_loss(
    spec: LossKernelSpec, kernels: Sequence[CompiledModule], scratch_rows: int, is_tiled: bool | None
) -> Callable[..., bool]:
    """Return a native function that computes a small loss.

    Args:
        spec: The loss and the dtypes of its operands.
        kernels: The compiled kernels of the loss.
        scratch_rows: The number of scratch rows of the kernel.
        is_tiled: Whether the kernel takes many short rows, or all others; None if it takes both.

    Returns:
        A function of `LossArguments.packed`, the tensor for the loss, the tuple of operands and the tuple of tensors
        for the gradients. It returns False if the operands or a value among them need the slow path.
    """
    lib = native_guard()
    assert lib is not None
    options = [float(v) for _, v in spec.options if is_number(v)]
    arrays: dict[str, array[Any]] = {
        "dtypes": array("q", [dtype_code(getattr(torch, c.storage)) for c in spec.operands]),
        "shapes": array("q", [_SHAPES.get(c.kind, _WHOLE) for c in spec.operands]),
        "grad_flags": array("q", spec.grad_flags),
        "numbers": array("d", options),
        "scratch": array("d", bytes(8 * scratch_rows * MAX_SCRATCH_CLASSES)),  # one call at a time: it holds the GIL
    }
    block = FastLossBlock(
        libtorch=ctypes.addressof(lib),
        is_rows=spec.derivatives is None,
        operands=len(spec.operands),
        gradients=len(spec.grad_operands),
        options=len(options),
        is_tiled=-1 if is_tiled is None else is_tiled,
        max_classes=MAX_SCRATCH_CLASSES if scratch_rows else sys.maxsize,
        result=result_code(spec),
        tuple=id(tuple),
        tensor=id(torch.Tensor),
        parameter=id(torch.nn.Parameter),
        parallel=parallel_address_cell(),
        thread_num=thread_num_address(),
        **{name: a.buffer_info()[0] for name, a in arrays.items()},
        **{name: address for kernel in kernels for name, address in kernel.addresses.items()},
    )
    module = load_file(
        "cpu/kernels/fast_loss", ("fast_loss",), IMPL_OFFSET=impl_offset(), **CPYTHON_OFFSETS, **_CONSTANTS
    )
    return make_fastcall(module, "fast_loss", block, lib, arrays, kernels)


def supports(spec: LossKernelSpec) -> bool:
    """Return whether machine code can check the operands and has space for them and the options."""
    columns, options = len(spec.operands) + len(spec.grad_operands), sum(is_number(v) for _, v in spec.options)
    return native_guard() is not None and columns <= MAX_COLUMNS and options <= MAX_OPTIONS
