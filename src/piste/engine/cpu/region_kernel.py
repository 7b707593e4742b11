"""The CPU kernel of a loss of regions, whose places threads share: operands and gradient are touched once or twice.

The samples are computed in turns, of as many as the caches of the cores hold, so that the gradient finds the
probabilities there.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence

import torch
from torch import Tensor

from ...formula.expression import is_number
from ..backend import Computed, Declined, LossKernel
from ..native.compiler import load, load_file
from ..specs import LossArguments, LossKernelSpec
from .formula_comments import loss_formula
from .is_one import make_is_one
from .loss_kernel import kernel_of
from .loss_lines import PARALLEL_MIN_ELEMENTS, result_code
from .memory import gradient_like
from .region_source import BLOCK_PLACES, SHARED_ROWS, TILE, region_source
from .tables import LossNumbers, region_table
from .work_sharing import make_counters, work

__all__ = ["LongRowsKernel", "RegionKernel"]

TURN_BYTES = 1 << 20  # of the probabilities of a turn, for each thread: half of a core's cache
MAX_CLASSES = 4096  # with more, sums in the precision of the logits lose digits


class RegionKernel(LossKernel):
    """A loss of regions in machine code."""

    def __init__(self, spec: LossKernelSpec) -> None:
        super().__init__(spec)
        text, self.entries, self.sums, self.scalars = region_source(spec)
        self.code = load(text, self.entries, lambda: loss_formula(spec), is_wide=True)
        self.finish = load_file("cpu/kernels/finish", ("finish",)).call["finish"]
        self.is_one = make_is_one()
        self._options = [float(v) for _, v in spec.options if is_number(v)]

    def compute(self, operands: Sequence[Tensor], arguments: LossArguments) -> Computed:
        self._refuse(operands)
        x = operands[0]
        classes, places = x.shape[-2:]
        regions = x.shape[:-1].numel()
        samples = regions // classes
        out = x.new_empty(())
        gradients = (*map(gradient_like, self.select(operands)),)
        by = arguments.divisor or regions
        memory = array("d", (1.0 / by, by, 0.0, *self._options))
        numbers = LossNumbers.from_buffer(memory)
        per_sample = -(-places // BLOCK_PLACES)
        threads = torch.get_num_threads() if x.numel() > PARALLEL_MIN_ELEMENTS else 1
        sums = torch.empty(samples * per_sample * (classes * self.sums + 1), dtype=torch.float64, device=x.device)
        scratch = torch.empty(threads * (2 * classes + SHARED_ROWS) * TILE, dtype=torch.float32, device=x.device)
        scalars = torch.empty(regions * self.scalars, dtype=torch.float32, device=x.device)
        partials = array("d", bytes(16 * samples))
        columns = [tensor.data_ptr() for tensor in (*operands, *gradients)]
        table = region_table(len(columns))(
            rows=regions,
            classes=classes,
            partials=partials.buffer_info()[0],
            out=out.data_ptr(),
            numbers=ctypes.addressof(numbers),
            scratch=scratch.data_ptr(),
            run=1,
            result=result_code(self.spec),
            places=places,
            per_sample=per_sample,
            sums=sums.data_ptr(),
            scalars=scalars.data_ptr(),
            columns=tuple(columns),
        )
        at = ctypes.addressof(table)
        turn = max(1, threads * TURN_BYTES // (4 * classes * places))
        for first in range(0, samples, turn):
            table.first, table.samples = first * per_sample, min(turn, samples - first)
            self._run("sums", table, threads)
            self.code.call["scalars"](at)
            if gradients:
                self._run("slopes", table, threads)
        table.blocks = samples
        self.finish(at)
        if numbers.faults:
            raise Declined("a value needs the exact checks")
        return out, gradients

    def _run(self, entry: str, table: ctypes.Structure, threads: int) -> None:
        """Run an entry for the blocks of a turn."""
        counters = make_counters(threads)
        for name, value in work(counters, table.samples * table.per_sample).items():
            setattr(table, name, value)
        self.code.parallel(entry, ctypes.addressof(table), threads)

    def _refuse(self, operands: Sequence[Tensor]) -> None:
        """Raise `Declined` for operands that the kernel doesn't support."""
        x, y = operands
        if not x.numel() or x.dim() < 2 or x.shape[-2] > MAX_CLASSES:
            raise Declined("there are no places, or too many classes")
        labels, expected = self.spec.operands[1], x.shape
        if labels.kind == "classes":
            expected = torch.Size((*x.shape[:-2], 1, x.shape[-1]))
        if y.shape != expected or y.dtype is not (torch.int64 if labels.kind == "classes" else x.dtype):
            raise Declined(f"the labels have dtype {y.dtype} and shape {tuple(y.shape)}")
        for operand in operands:
            if not operand.is_cpu or operand.layout is not torch.strided or not operand.is_contiguous():
                raise Declined(f"an operand is on {operand.device}, or is not contiguous")
            if operand.is_neg() or operand.is_conj():
                raise Declined("an operand is a lazy conjugate or negative")


class LongRowsKernel(RegionKernel):
    """A loss of fewer rows than threads, which share each row; the kernel of rows takes what this one declines."""

    def __init__(self, spec: LossKernelSpec) -> None:
        super().__init__(spec)
        self._rows = kernel_of(spec)

    def compute(self, operands: Sequence[Tensor], arguments: LossArguments) -> Computed:
        try:
            return super().compute(operands, arguments)
        except Declined:
            return self._rows.compute(operands, arguments)
