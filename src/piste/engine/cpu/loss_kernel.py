"""The CPU kernel of a loss: the value, gradients and checks of all elements or rows in one pass over memory.

Each block has a partial sum, and the partial sums are added in order, so the result does not depend on the number of
threads.
"""

from __future__ import annotations

import ctypes
import functools
from array import array
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...formula.expression import is_number
from ...torch_internals import PLAIN_TYPES
from ..backend import Computed, Declined, LossKernel
from ..native.compiler import load, load_file
from ..specs import LossArguments, LossKernelSpec, has_many_short_rows
from . import elementwise_kernel as element_source
from . import rowwise_kernel as row_source
from .fast_loss import make_fast_loss, supports
from .formula_comments import loss_formula
from .is_one import make_is_one
from .loss_lines import BLOCK, CHUNKS_PER_THREAD, FAST_MAX_ELEMENTS, PARALLEL_MIN_ELEMENTS, result_code
from .memory import LARGE, gradient_like
from .tables import LossNumbers, loss_table
from .tile_kernel import tile_source
from .work_sharing import make_counters, work

__all__ = ["CpuLossKernel", "kernel_of"]

MAX_CLASSES = 1 << 24  # the largest number that float32 counts to
_empty_like = torch.empty_like


@functools.lru_cache(maxsize=512)
def kernel_of(spec: LossKernelSpec, is_tiled: bool = False) -> CpuLossKernel:
    """Return the kernel of a spec, or that of many short rows; equal specs share it."""
    return CpuLossKernel(spec, is_tiled)


class CpuLossKernel(LossKernel):
    """A loss in machine code.

    Args:
        spec: The loss and the dtypes of its operands.
        is_tiled: Whether the kernel is that of many short rows, for which the loss has one.
    """

    def __init__(self, spec: LossKernelSpec, is_tiled: bool = False) -> None:
        super().__init__(spec)
        self.scratch_rows = 0
        lanes = tile_source(spec)
        self.is_tiled = None if lanes is None else is_tiled
        is_wide = True  # elements and tiles have long loops
        if is_tiled and lanes is not None:
            text = lanes
        elif spec.derivatives is None:
            text, self.scratch_rows = row_source.source(spec)
            is_wide = False
        else:
            text = element_source.source(spec)
        # Separate modules, because many kernels share them.
        finish, prepare = load_file("cpu/kernels/finish", ("finish",)), None
        if spec.divisor != "given":
            prepare = load_file("cpu/kernels/mean_divisor", ("prepare",), **row_source.divisor_constants(spec))
        self.code, self.finish = load(text, ("run",), lambda: loss_formula(spec), is_wide), finish.call["finish"]
        self.prepare = None if prepare is None else prepare.call["prepare"]
        self._modules = parts = [self.code, finish] if prepare is None else [self.code, finish, prepare]
        self.dtypes = [getattr(torch, c.storage) for c in spec.operands]
        self.leads = spec.grad_flags == [True] + [False] * (len(spec.grad_flags) - 1)
        self._options = [float(v) for _, v in spec.options if is_number(v)]
        self.run_fast = make_fast_loss(spec, parts, self.scratch_rows, self.is_tiled) if supports(spec) else None
        if self.run_fast is not None:  # larger gradients reuse memory
            self.max_fast_elements = min(FAST_MAX_ELEMENTS, LARGE // self.dtypes[0].itemsize - 1)
        self.is_one = make_is_one()
        self._result = result_code(spec)
        self._scalar = torch.empty((), dtype=self.dtypes[0], device="cpu")

    def compute_fast(self, operands: tuple[Tensor, ...], arguments: LossArguments) -> Computed | None:
        out = _empty_like(self._scalar) if self.is_sum else self._each(operands[0])
        if self.leads:
            gradients: tuple[Tensor, ...] = (_empty_like(operands[0]),)
        elif PLAIN_TYPES.issuperset(map(type, operands)):
            gradients = (*map(_empty_like, self.select(operands)),)
        else:
            return None
        return (out, gradients) if self.run_fast(arguments[0], out, operands, gradients) else None  # type: ignore[misc]

    def compute(self, operands: Sequence[Tensor], arguments: LossArguments) -> Computed:
        out = _empty_like(self._scalar) if self.is_sum else self._each(operands[0])
        gradients = (*map(gradient_like, self.select(operands)),)
        self.fill(out, gradients, operands, arguments)
        return out, gradients

    def _each(self, first: Tensor) -> Tensor:
        shape = first.shape if self.spec.derivatives is not None else first.shape[:-1]
        return torch.empty(shape, dtype=self.dtypes[0], device=first.device)

    def fill(
        self,
        out: Tensor,
        gradients: Sequence[Tensor],
        operands: Sequence[Tensor],
        arguments: LossArguments,
        factor: float = 1.0,
    ) -> None:
        """Write the loss to `out`, and its gradients times `factor` to `gradients`.

        Raises:
            Declined: The operands are unsupported, or a value needs the exact checks.
        """
        self._refuse(operands)
        first = operands[0]
        rows, classes = first.numel(), 1
        if self.spec.derivatives is None:
            classes = first.shape[-1]
            rows = rows // classes
        per_block = max(1, BLOCK // classes)
        blocks = -(-rows // per_block)
        by = (arguments.divisor or rows) if self.is_sum else 1.0
        memory = array("d", (factor / by, by, 0.0, *self._options))
        numbers = LossNumbers.from_buffer(memory)
        partials = array("d", bytes(16 * blocks))
        threads = torch.get_num_threads() if rows * classes > PARALLEL_MIN_ELEMENTS else 1
        counters = make_counters(threads)
        columns = [x.data_ptr() for x in (*operands, *gradients)]
        table = loss_table(len(columns))(
            **work(counters, blocks),
            rows=rows,
            classes=classes,
            per_block=per_block,
            partials=partials.buffer_info()[0],
            out=out.data_ptr(),
            numbers=ctypes.addressof(numbers),
            ignored=arguments.ignored,
            run=max(1, blocks // (CHUNKS_PER_THREAD * threads)),
            result=self._result,
            columns=tuple(columns),
        )
        if self.scratch_rows:
            dtype = getattr(torch, self.spec.dtype)
            scratch = torch.empty(threads * self.scratch_rows * classes, dtype=dtype, device=first.device)
            table.scratch = scratch.data_ptr()
        at = ctypes.addressof(table)
        if self.prepare is not None:
            self.prepare(at)
            if numbers.divisor == 0 and (self.spec.rejects_nothing or not arguments.is_nothing_nan):
                raise Declined("there are no rows to take the mean of")
            numbers.scale *= factor
        self.code.parallel("run", at, threads)
        self.finish(at)
        if numbers.faults:
            raise Declined("a value needs the exact checks")

    def scale(
        self,
        gradients: tuple[Tensor, ...],
        grad: Tensor,
        operands: Callable[[], Sequence[Tensor]],
        arguments: LossArguments,
    ) -> tuple[Tensor, ...]:
        factor = grad.item() if self.is_sum else None
        if factor == 1.0:
            return gradients
        if factor is None or not self.is_narrow:
            return super().scale(gradients, grad, operands, arguments)
        # Compute again to round once: multiplying rounded gradients would lose small ones.
        self.fill(torch.empty_like(grad), gradients, operands(), arguments, factor)
        return gradients

    def _refuse(self, operands: Sequence[Tensor]) -> None:
        """Raise `Declined` for operands that the kernel doesn't support."""
        first = operands[0]
        if not first.numel():
            raise Declined("there are no elements")
        if self.spec.derivatives is None:
            if first.shape[-1] > MAX_CLASSES:
                raise Declined(f"there are more than {MAX_CLASSES} classes")
            if self.is_tiled not in (None, has_many_short_rows(first)):
                raise Declined(f"rows of {first.shape[-1]} classes have another kernel")
        for x, dtype, column in zip(operands, self.dtypes, self.spec.operands, strict=True):
            if not x.is_cpu or x.layout is not torch.strided:
                raise Declined(f"an operand is on {x.device} with layout {x.layout}")
            if x.dtype is not dtype or not x.is_contiguous():
                raise Declined(f"operand {column.name} has dtype {x.dtype} or is not contiguous")
            if x.is_neg() or x.is_conj():
                raise Declined("an operand is a lazy conjugate or negative")
            if column.kind in ("number", "index"):
                expected = first.shape[:-1]
            else:
                expected = first.shape[-1:] if column.kind == "shared" else first.shape
            if x.shape != expected:
                raise Declined(f"operand {column.name} has shape {tuple(x.shape)}")
