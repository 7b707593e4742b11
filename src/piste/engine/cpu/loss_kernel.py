"""The machine code of a loss: what it is given, what it leaves, and the same gradients as torch operations."""

from __future__ import annotations

import ctypes
import functools
import operator
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...formula.differentiate import Slope, on_tensors
from ...formula.expression import is_number
from ..eager import loss as eager_loss
from . import elementwise_kernel as element_source
from . import rowwise_kernel as row_source
from .compiler import load, load_file
from .debug import loss_formula
from .fast_loss import NEVER, Rest, can_serve, serving
from .is_one import make_is_one
from .loss_form import BLOCK, FEW, GRAIN, PARTS, Form
from .memory import LARGE, gradient_like
from .tables import LossNumbers, loss_table
from .torch_internals import PLAIN
from .work_sharing import make_counters, work

__all__ = ["NEVER", "LossKernel", "Rest", "Unserved", "kernel_of"]

MOST_CLASSES = 1 << 24  # that float32 can count
_empty_like = torch.empty_like


class Unserved(Exception):
    """The operands, or a value among them, want the eager backend."""


Made = tuple[Tensor, tuple[Tensor, ...]]
"""A loss, and its gradients."""


@functools.lru_cache(maxsize=512)
def kernel_of(form: Form) -> LossKernel:
    """The kernel of a form, made once."""
    return LossKernel(form)


class LossKernel:
    """The machine code of a form."""

    def __init__(self, form: Form) -> None:
        self.form, self.scratch_rows = form, 0
        if form.derivatives is None:
            text, self.scratch_rows = row_source.source(form)
        else:
            text = element_source.source(form)
        # Separate modules, as many kernels have them in common.
        finish, prepare = load_file("finish", ("finish",)), None
        if form.divisor != "given":
            prepare = load_file("mean_divisor", ("prepare",), **row_source.divisor_constants(form))
        self.code, self.finish = load(text, ("run",), lambda: loss_formula(form)), finish.call["finish"]
        self.prepare = None if prepare is None else prepare.call["prepare"]
        self._modules = parts = [self.code, finish] if prepare is None else [self.code, finish, prepare]
        self.is_one, self.is_narrow = form.mode == "sum", form.storage != form.dtype
        self.dtypes = [getattr(torch, c.storage) for c in form.given]
        wanted = [k for k, is_wanted in enumerate(form.marks) if is_wanted]
        self.by, self.leads = _picker(wanted), wanted == [0]
        self._options = [float(v) for _, v in form.options if is_number(v)]
        self.few = min(FEW, LARGE // self.dtypes[0].itemsize - 1)  # larger gradients have memory that is kept
        self.serve = serving(form, parts, self.scratch_rows) if can_serve(form) else None
        self.is_unit = make_is_one()
        self._scalar = torch.empty((), dtype=self.dtypes[0])

    def of_few(self, given: tuple[Tensor, ...], rest: Rest) -> Made | None:
        """As `loss`, of few elements; None where anything is not as the form has it, or a value is not allowed."""
        out = _empty_like(self._scalar) if self.is_one else self._each(given[0])
        if self.leads:
            gradients: tuple[Tensor, ...] = (_empty_like(given[0]),)
        elif PLAIN.issuperset(map(type, given)):
            gradients = (*map(_empty_like, self.by(given)),)
        else:
            return None
        return (out, gradients) if self.serve(rest[0], out, given, gradients) else None  # type: ignore[misc]

    def loss(self, given: Sequence[Tensor], rest: Rest) -> Made:
        """The loss, and its gradients by what the form wants them by."""
        out = _empty_like(self._scalar) if self.is_one else self._each(given[0])
        gradients = (*map(gradient_like, self.by(given)),)
        self.fill(out, gradients, given, rest)
        return out, gradients

    def _each(self, first: Tensor) -> Tensor:
        return torch.empty(first.shape if self.form.derivatives is not None else first.shape[:-1], dtype=self.dtypes[0])

    def fill(
        self, out: Tensor, gradients: Sequence[Tensor], given: Sequence[Tensor], rest: Rest, factor: float = 1.0
    ) -> None:
        """Leave the loss in the memory of `out`, and its gradients, times `factor`, in that of `gradients`."""
        self._refuse(given)
        first = given[0]
        rows, classes = first.numel(), 1
        if self.form.derivatives is None:
            classes = first.shape[-1]
            rows = rows // classes
        per_block = max(1, BLOCK // classes)
        blocks = -(-rows // per_block)
        by = (rest.divisor or rows) if self.is_one else 1.0
        memory = array("d", (factor / by, by, 0.0, *self._options))
        numbers = LossNumbers.from_buffer(memory)
        partials = array("d", bytes(16 * blocks))
        threads = torch.get_num_threads() if rows * classes > GRAIN else 1
        counters = make_counters(threads)
        columns = [x.data_ptr() for x in (*given, *gradients)]
        table = loss_table(len(columns))(
            **work(counters, blocks),
            rows=rows,
            classes=classes,
            per_block=per_block,
            partials=partials.buffer_info()[0],
            out=out.data_ptr(),
            numbers=ctypes.addressof(numbers),
            ignored=rest.ignored,
            run=max(1, blocks // (PARTS * threads)),
            result=self.form.result,
            columns=tuple(columns),
        )
        if self.scratch_rows:
            scratch = torch.empty(threads * self.scratch_rows * classes, dtype=getattr(torch, self.form.dtype))
            table.scratch = scratch.data_ptr()
        at = ctypes.addressof(table)
        if self.prepare is not None:
            self.prepare(at)
            if numbers.divisor == 0 and not rest.is_nothing_nan:
                raise Unserved
            numbers.scale *= factor
        self.code.parallel("run", at, threads)
        self.finish(at)
        if numbers.faults:
            raise Unserved

    def _refuse(self, given: Sequence[Tensor]) -> None:
        """Operands that a kernel can't walk."""
        first = given[0]
        if not first.numel() or (self.form.derivatives is None and first.shape[-1] > MOST_CLASSES):
            raise Unserved
        for x, dtype, column in zip(given, self.dtypes, self.form.given, strict=True):
            if not x.is_cpu or x.layout is not torch.strided or x.dtype is not dtype or not x.is_contiguous():
                raise Unserved
            if x.is_neg() or x.is_conj():  # to be applied yet
                raise Unserved
            if column.kind in ("number", "index"):
                expected = first.shape[:-1]
            else:
                expected = first.shape[-1:] if column.kind == "shared" else first.shape
            if x.shape != expected:
                raise Unserved

    def slopes(self, given: Sequence[Tensor], rest: Rest) -> list[Tensor]:
        """The gradients again, as torch operations."""
        form = self.form
        inputs = [x.to(eager_loss.working_dtype(x.dtype)) for x in given]
        if form.derivatives is None:
            return _row_slopes(self, inputs, rest)
        letters = [x for x, c in zip(inputs, form.given, strict=True) if c.kind == "element"]
        found = form.derivatives(*letters, **dict(form.options))
        found = [s for s, is_wanted in zip(found, form.wanted, strict=False) if is_wanted]
        if form.given[-1].kind == "weight":
            found = [s * inputs[-1] for s in found]
        return [s / (rest.divisor or inputs[0].numel()) for s in found] if self.is_one else found

    @functools.cached_property
    def row_slopes(self) -> list[Slope]:
        return row_source.formulas(self.form)[1]


def _picker(places: list[int]) -> Callable[[Sequence[Tensor]], Sequence[Tensor]]:
    """What takes the items at some places, however many, out of a sequence."""
    if len(places) < 2:
        return operator.itemgetter(slice(places[0], places[0] + 1) if places else slice(0))
    return operator.itemgetter(*places)


def _row_slopes(kernel: LossKernel, inputs: list[Tensor], rest: Rest) -> list[Tensor]:
    form = kernel.form
    ignored = rest.ignored
    divisor: Any = rest.divisor or inputs[0].shape[:-1].numel()
    named = dict(zip((c.name for c in form.given), inputs, strict=True))
    keep: Tensor | None = None
    for c in form.given:
        if c.kind == "index" and ignored != NEVER:
            k = named[c.name]
            keep = k != ignored
            named[c.name] = k = torch.where(keep, k, 0)
            if form.divisor == "count":
                divisor = keep.sum()
            elif form.divisor == "weights":
                divisor = torch.where(keep, inputs[-1][k], 0).sum()
        elif c.kind == "index" and form.divisor == "weights":
            divisor = inputs[-1][named[c.name]].sum()
    found = []
    for column, slope in zip(form.by, kernel.row_slopes, strict=True):
        made = on_tensors(slope, named, named[column.name])
        made = made if keep is None else torch.where(keep.unsqueeze(-1), made, 0)
        found.append(made / divisor if kernel.is_one else made)
    return found
