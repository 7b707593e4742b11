"""Losses over rows on the CPU: each row is read from memory once, its gradient written once, its values looked at.

As for the elementwise losses, the forward pass leaves the gradient of a loss whose own gradient is 1. The gradient is
the derivative of the formula itself (`slope`), and the kernel is made of both (`row_source`).
"""

from __future__ import annotations

import functools
from array import array
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..formula import FormulaError
from ..mathematics import is_number
from . import eager_loss, native, row_source
from .buffers import gradient_like
from .cpu_loss import Unserved, foreign, is_batched, transforms
from .row_source import DIVISOR, FAULTS, OUT, PARTIALS, SCALE, SCRATCH, TICKETS, Column, Form
from .slope import Slope, on_tensors

__all__ = ["Letters", "Rows"]

BLOCK = 1 << 15  # elements that a thread takes at a time, in whole rows
_STORAGES = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
    torch.int64: "int64",
}
_WHOLE = ("index", "labels")
_LARGEST = 1 << 24  # classes that float32 can count


class Letters(NamedTuple):
    """The operands of a call, classes last; what each is (see `Column`), and what the reduction needs."""

    tensors: tuple[Tensor | None, ...]
    kinds: tuple[str, ...]
    shape: torch.Size  # of the rows
    ignored: int | None = None
    divisor: float | None = None  # of a mean, if it is known; None: that of the settings


class Rows:
    """A loss over rows with its settings, to be called with its letters; None where no kernel serves."""

    def __init__(
        self,
        formula: Callable[..., Any],
        options: dict[str, Any],
        faults: tuple[Callable[..., Any], ...],
        mode: str,
        divisor: str,
        is_nothing_nan: bool,
    ) -> None:
        self.formula, self.options, self.faults = formula, tuple(options.items()), faults
        self.mode, self.divisor, self.is_nothing_nan = mode, divisor, is_nothing_nan
        self.kernels: dict[tuple[Any, ...], _Kernel | None] = {}

    def __call__(self, letters: Letters) -> Tensor | None:
        """The loss, in the precision it was computed in."""
        given = [x for x in letters.tensors if x is not None]
        if foreign(given, gradients=len(given)) is not None:
            return None
        is_recorded = torch.is_grad_enabled()
        wanted = tuple(x is not None and is_recorded and x.requires_grad for x in letters.tensors)
        key = (wanted, *(None if x is None else x.dtype for x in letters.tensors))
        try:
            kernel = self.kernels[key]
        except KeyError:
            kernel = self.kernels[key] = self._kernel(letters, wanted)
        if kernel is None:
            return None
        first = given[0]
        if not first.numel() or first.shape[-1] > _LARGEST:
            return None
        for x in given:
            if not x.is_cpu or x.layout is not torch.strided or x.is_neg():
                return None
        given = [x if x.is_contiguous() else x.contiguous() for x in given]
        call = _Call(self, kernel, letters, first.shape[-1])
        try:
            return _RowLoss.apply(call, *given) if any(wanted) else call(given, [], 1.0)
        except Unserved:
            return None

    def _kernel(self, letters: Letters, wanted: tuple[bool, ...]) -> _Kernel | None:
        """A kernel for operands of these dtypes, or None where none can be made."""
        names = self.formula.__code__.co_varnames
        columns: list[Column | None] = []
        for name, kind, x in zip(names, letters.kinds, letters.tensors, strict=False):
            if x is not None and (x.dtype not in _STORAGES or (x.dtype is torch.int64) != (kind in _WHOLE)):
                return None
            columns.append(None if x is None else Column(name, kind, _STORAGES[x.dtype]))
        floats = {c.storage for c in columns if c is not None and c.storage != "int64"}
        is_mixed = "float64" in floats and len(floats) > 1
        is_beyond = any(w and (c is None or c.kind != "row") for c, w in zip(columns, wanted, strict=True))
        if is_mixed or is_beyond:
            return None
        form = Form(self.formula, tuple(columns), self.options, self.faults, wanted, self.mode, self.divisor)
        try:
            return _kernel(form)
        except FormulaError:
            return None


class _Kernel:
    """The machine code of a form, and its gradient as torch operations."""

    def __init__(self, form: Form) -> None:
        text, entries, self.scratch_rows = row_source.source(form)
        self.form, code = form, native.load(text, entries)
        self.code, self.prepare, self.finish = code, code.call.get("prepare"), code.call["finish"]
        self.dtype = getattr(torch, form.dtype)
        self.is_narrow = any(c and c.storage in ("bfloat16", "float16") for c in form.columns)
        self.wanted = [c for c, is_wanted in zip(form.columns, form.wanted, strict=True) if is_wanted and c]

    @functools.cached_property
    def slopes(self) -> list[Slope]:
        return row_source.formulas(self.form)[1]


@functools.lru_cache(maxsize=512)
def _kernel(form: Form) -> _Kernel:
    return _Kernel(form)


class _Call:
    """One call of a kernel on its operands."""

    __slots__ = ("blocks", "classes", "divisor", "kernel", "letters", "numbers", "per_block", "rows", "settings")

    def __init__(self, settings: Rows, kernel: _Kernel, letters: Letters, classes: int) -> None:
        self.settings, self.kernel, self.letters, self.classes = settings, kernel, letters, classes
        self.rows = letters.shape.numel()
        self.per_block = max(1, BLOCK // classes)
        self.blocks = -(-self.rows // self.per_block)
        self.divisor = 1.0

    def __call__(self, given: Sequence[Tensor], gradients: Sequence[Tensor], factor: float) -> Tensor:
        """The loss; and its gradients times `factor`."""
        kernel, letters = self.kernel, self.letters
        is_one = kernel.form.mode == "sum"
        out = torch.empty(() if is_one else letters.shape, dtype=kernel.dtype)
        divisor = letters.divisor or 1.0
        options = [float(v) for _, v in kernel.form.options if is_number(v)]
        numbers = array("d", (factor / divisor, divisor, 0.0, *options))
        partials = array("d", bytes(16 * self.blocks))
        threads = torch.get_num_threads() if self.blocks > 1 else 1
        ignored = -(1 << 62) if letters.ignored is None else letters.ignored
        head = (0, self.blocks, self.rows, self.classes, self.per_block, partials.buffer_info()[0], out.data_ptr())
        table = array("q", (*head, numbers.buffer_info()[0], ignored, 0, 0))
        table.extend([x.data_ptr() for x in given])
        table.extend([x.data_ptr() for x in gradients])
        if kernel.scratch_rows:
            tickets = array("q", [0])
            scratch = torch.empty(threads * kernel.scratch_rows * self.classes, dtype=kernel.dtype)
            table[TICKETS], table[SCRATCH] = tickets.buffer_info()[0], scratch.data_ptr()
        at = table.buffer_info()[0]
        if kernel.prepare is not None:
            kernel.prepare(at)
            if numbers[DIVISOR] == 0 and not self.settings.is_nothing_nan:
                raise Unserved
            numbers[SCALE] *= factor
        kernel.code.parallel("run", at, threads)
        if not is_one:
            table[OUT] = table[PARTIALS]  # there is no sum to give
        kernel.finish(at)
        if numbers[FAULTS]:
            raise Unserved
        self.divisor = numbers[DIVISOR]
        return out

    def slopes(self, given: Sequence[Tensor]) -> list[Tensor]:
        """The gradients again, as torch operations."""
        form = self.kernel.form
        columns = [c for c in form.columns if c is not None]
        inputs = {c.name: x.to(eager_loss.working_dtype(x.dtype)) for c, x in zip(columns, given, strict=True)}
        keep: Tensor | None = None
        for c in columns:
            if c.kind == "index":
                keep = torch.ne(inputs[c.name], self.letters.ignored) if self.letters.ignored is not None else None
                inputs[c.name] = inputs[c.name] if keep is None else torch.where(keep, inputs[c.name], 0)
        found = []
        for column, slope in zip(self.kernel.wanted, self.kernel.slopes, strict=True):
            like = inputs[column.name]
            made = on_tensors(slope, inputs, like)
            found.append(made if keep is None else torch.where(keep.unsqueeze(-1), made, 0))
        return found


class _RowLoss(torch.autograd.Function):
    """A call that leaves the gradients as it computes the loss."""

    @staticmethod
    def forward(ctx: Any, call: _Call, *given: Tensor) -> Tensor:
        ctx.call = call
        wanted = [w for w, x in zip(call.kernel.form.wanted, call.letters.tensors, strict=True) if x is not None]
        gradients = [gradient_like(x) for x, w in zip(given, wanted, strict=True) if w]
        ctx.save_for_backward(*given)
        ctx.wanted, ctx.gradients = wanted, gradients
        return call(given, gradients, 1.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        call, gradients = ctx.call, ctx.gradients
        ctx.gradients = None
        given = ctx.saved_tensors
        is_one = call.kernel.form.mode == "sum"
        # Several gradients may come as one, under vmap or with `is_grads_batched`.
        if torch.is_grad_enabled() or transforms() is not None or is_batched(grad):
            factor = grad / call.divisor if is_one else grad.unsqueeze(-1)
            gradients = [factor * slope for slope in call.slopes(given)]
        else:
            if gradients is None:  # the graph was kept for a backward once more
                gradients = [gradient_like(x) for x, w in zip(given, ctx.wanted, strict=True) if w]
                call(given, gradients, 1.0)
            if not is_one:
                for made in gradients:
                    made.mul_(grad.unsqueeze(-1))
            elif (factor := grad.item()) != 1.0:
                if call.kernel.is_narrow:  # rounded once, or what a loss is scaled up for would be lost before
                    call(given, gradients, factor)
                else:
                    for made in gradients:
                        made.mul_(factor)
        left = iter(gradients)
        return None, *(next(left) if w else None for w in ctx.wanted)
