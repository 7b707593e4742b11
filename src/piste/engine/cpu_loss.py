"""Losses on the CPU: value, gradients and check of every element or row in one pass over memory.

A kernel leaves the gradient of a loss whose own gradient is 1, which is what a backward nearly always brings; any other
number costs the backward one pass over that gradient. Partial sums lie one to a block and are added in order, so the
result does not depend on the number of threads. A second backward, and whatever `foreign` names, go to torch.
"""

from __future__ import annotations

import functools
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..formula import FormulaError
from ..mathematics import is_number
from . import eager_loss, element_source, native, row_source
from .buffers import gradient_like
from .loss_form import BLOCK, DIVISOR, FAULTS, GRAIN, PARTS, SCALE, STORAGES, Column, Form, finish_source
from .loss_form import SCRATCH as SCRATCH_AT
from .loss_form import TICKETS as TICKETS_AT
from .once import FAULTY, SERVED, Once, can_serve
from .slope import Slope, on_tensors

__all__ = ["NEVER", "Ready", "as_number", "foreign", "is_batched"]

MOST_CLASSES = 1 << 24  # that float32 can count
NEVER = -(1 << 62)
"""An index that nothing has: none is ignored."""
_PLAIN = {Tensor, torch.nn.Parameter}
_is_compiling = torch.compiler.is_compiling
_is_grad_enabled = torch.is_grad_enabled
is_batched = torch._C._functorch.is_legacy_batchedtensor
_transforms = torch._C._functorch.peek_interpreter_stack
_dispatchers = torch._C._len_torch_dispatch_stack
_overrides = torch._C._len_torch_function_stack


def foreign(operands: Sequence[Tensor]) -> str | None:
    """Why operands like these, or any at the moment, are torch's business."""
    for x in operands:
        if type(x) not in _PLAIN:
            return "an operand is no plain tensor"
    return "torch is tracing or transforming" if _is_elsewhere() else None


def _is_elsewhere() -> bool:
    return bool(
        _is_compiling() or _transforms() is not None or _dispatchers() or _overrides() or forward_ad._current_level >= 0
    )


def as_number(divisor: Tensor) -> float | None:
    """A divisor that can be read now, and needs no gradient."""
    return None if foreign((divisor,)) is not None or not divisor.is_cpu or divisor.requires_grad else divisor.item()


class Ready:
    """A loss with its settings, to be called with its operands: the loss, or None where no kernel serves.

    None too where a value has to be refused: the eager engine finds it again and names it.
    """

    __slots__ = (
        *("bounds", "derivatives", "divisor", "faults", "formula"),
        *("is_nothing_nan", "kernels", "kinds", "mode", "options"),
    )

    def __init__(
        self,
        formula: Callable[..., Any],
        derivatives: Callable[..., Any] | None,
        kinds: tuple[str | None, ...],
        options: dict[str, Any],
        faults: tuple[Callable[..., Any], ...],
        mode: str,
        divisor: str = "given",
        is_nothing_nan: bool = True,
        bounds: tuple[tuple[int, float], ...] = (),
    ) -> None:
        self.formula, self.derivatives, self.kinds = formula, derivatives, kinds
        self.options, self.faults, self.bounds = tuple(options.items()), faults, bounds
        self.mode, self.divisor, self.is_nothing_nan = mode, divisor, is_nothing_nan
        self.kernels: dict[tuple[int, torch.dtype], _Kernel | None] = {}

    def __call__(
        self, given: Sequence[Tensor], shape: torch.Size | None = None, ignored: int = NEVER, divisor: float = 0.0
    ) -> Tensor | None:
        """The loss of operands that stand in the order of the formula; those it goes without are left out.

        `shape` is that of the rows. A mean divides by `divisor`, if it is not 0, and else by the rows or elements.
        """
        wanted, bit = 0, 1
        for x in given:
            if type(x) not in _PLAIN:
                return None
            if x.requires_grad:
                wanted |= bit
            bit <<= 1
        if _is_elsewhere():
            return None
        if wanted and not _is_grad_enabled():
            wanted = 0
        first = given[0]
        try:
            kernel = self.kernels[wanted, first.dtype]
        except KeyError:
            kernel = self.kernels[wanted, first.dtype] = self._kernel(given, wanted)
        if kernel is None or (kernel.is_narrow and torch.is_autocast_enabled("cpu")):  # which keeps results wide
            return None
        rest = (first.shape if shape is None else shape, ignored, divisor, self.is_nothing_nan)
        try:
            if not wanted:
                return kernel(given, (), rest)
            if wanted == 1:
                return _apply((kernel, rest), given, first)
            return _apply((kernel, rest), given, *[x for k, x in enumerate(given) if wanted >> k & 1])
        except Unserved:
            if all([x.is_contiguous() for x in given]):
                return None
        return self([x.contiguous() for x in given], shape, ignored, divisor)

    def _kernel(self, given: Sequence[Tensor], wanted: int) -> _Kernel | None:
        """A kernel for operands of these dtypes, or None where none can be made."""
        first = STORAGES.get(given[0].dtype)
        if first is None:
            return None
        wide = "float32" if first in ("bfloat16", "float16") else first
        storages = {"shared": wide, "number": wide, "index": "int64", "labels": "int64"}
        columns: list[Column | None] = []
        names = (*self.formula.__code__.co_varnames[: self.formula.__code__.co_argcount], "weight")
        for name, kind in zip(names, self.kinds, strict=False):
            columns.append(None if kind is None else Column(name, kind, storages.get(kind, first)))
        kinds = [c.kind for c in columns if c is not None]
        marks = iter([bool(wanted >> k & 1) for k in range(len(kinds))])
        asked = tuple(c is not None and next(marks) for c in columns)
        if any(w and c is not None and c.kind not in ("row", "element") for c, w in zip(columns, asked, strict=True)):
            return None
        what = self.formula, self.derivatives, tuple(columns), self.options, self.faults
        form = Form(*what, asked, self.bounds, self.mode, self.divisor)
        try:
            return _kernel(form)
        except FormulaError:
            return None


class Unserved(Exception):
    """The operands, or a value among them, want the eager engine."""


@functools.lru_cache(maxsize=512)
def _kernel(form: Form) -> _Kernel:
    return _Kernel(form)


class _Kernel:
    """The machine code of a form."""

    def __init__(self, form: Form) -> None:
        self.form, self.scratch_rows = form, 0
        if form.derivatives is None:
            text, self.scratch_rows = row_source.source(form)
        else:
            text = element_source.source(form)
        # Apart, as they are alike for many kernels.
        finish = native.load(finish_source(form.storage, form.mode), ("finish",))
        prepare = None if form.divisor == "given" else native.load(row_source.prepare_source(form), ("prepare",))
        self.code, self.finish = native.load(text, ("run",)), finish.call["finish"]
        self.prepare = None if prepare is None else prepare.call["prepare"]
        parts = [self.code, finish] if prepare is None else [self.code, finish, prepare]
        self.is_one, self.is_narrow = form.mode == "sum", form.storage != form.dtype
        self.dtypes = [getattr(torch, c.storage) for c in form.given]
        self._options = [float(v) for _, v in form.options if is_number(v)]
        self.once = Once(form, parts) if can_serve(form) and not self.scratch_rows else None
        self._scalar = torch.empty((), dtype=self.dtypes[0])

    def __call__(
        self,
        given: Sequence[Tensor],
        gradients: Sequence[Tensor],
        rest: tuple[torch.Size, int, float, bool],
        factor: float = 1.0,
    ) -> Tensor:
        """The loss; and its gradients, times `factor`, in the memory of `gradients`.

        The rest: the shape of the rows, the index that is ignored, what a mean divides by, whether nothing's is NaN.
        """
        shape, ignored, divisor, is_nothing_nan = rest
        out = torch.empty_like(self._scalar) if self.is_one else torch.empty(shape, dtype=self.dtypes[0])
        if self.once is not None and factor == 1.0:
            became = self.once(divisor if self.is_one else 1.0, ignored, out, given, gradients)
            if became == SERVED:
                return out
            if became == FAULTY:
                raise Unserved
        self._refuse(given)
        first = given[0]
        rows, classes = first.numel(), 1
        if self.form.derivatives is None:
            classes = first.shape[-1]
            rows = rows // classes
        per_block = max(1, BLOCK // classes)
        blocks = -(-rows // per_block)
        by = (divisor or rows) if self.is_one else 1.0
        numbers = array("d", (factor / by, by, 0.0, *self._options))
        partials = array("d", bytes(16 * blocks))
        threads = torch.get_num_threads() if rows * classes > GRAIN else 1
        head = (0, blocks, rows, classes, per_block, partials.buffer_info()[0], out.data_ptr())
        table = array("q", (*head, numbers.buffer_info()[0], ignored, 0, 0, max(1, blocks // (PARTS * threads))))
        table.extend([x.data_ptr() for x in (*given, *gradients)])
        if self.scratch_rows:
            tickets = array("q", [0])
            scratch = torch.empty(threads * self.scratch_rows * classes, dtype=getattr(torch, self.form.dtype))
            table[TICKETS_AT], table[SCRATCH_AT] = tickets.buffer_info()[0], scratch.data_ptr()
        at = table.buffer_info()[0]
        if self.prepare is not None:
            self.prepare(at)
            if numbers[DIVISOR] == 0 and not is_nothing_nan:
                raise Unserved
            numbers[SCALE] *= factor
        self.code.parallel("run", at, threads)
        self.finish(at)
        if numbers[FAULTS]:
            raise Unserved
        return out

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

    def slopes(self, given: Sequence[Tensor], shape: torch.Size, ignored: int, divisor: float) -> list[Tensor]:
        """The gradients again, as torch operations."""
        form = self.form
        inputs = [x.to(eager_loss.working_dtype(x.dtype)) for x in given]
        if form.derivatives is not None:
            letters = [x for x, c in zip(inputs, form.given, strict=True) if c.kind == "element"]
            found = form.derivatives(*letters, **dict(form.options))
            found = [s for s, is_wanted in zip(found, form.wanted, strict=False) if is_wanted]
            if form.given[-1].kind == "weight":
                found = [s * inputs[-1] for s in found]
            return [s / (divisor or inputs[0].numel()) for s in found] if self.is_one else found
        return _row_slopes(self, inputs, ignored, divisor or shape.numel())

    @functools.cached_property
    def row_slopes(self) -> list[Slope]:
        return row_source.formulas(self.form)[1]


def _row_slopes(kernel: _Kernel, inputs: list[Tensor], ignored: int, divisor: Any) -> list[Tensor]:
    form = kernel.form
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


class _Loss(torch.autograd.Function):
    """A call that leaves the gradients as it computes the loss; autograd keeps the operands until the backward."""

    @staticmethod
    def forward(ctx: Any, of: tuple[_Kernel, Any], given: Sequence[Tensor], *by: Tensor) -> Tensor:
        ctx.of = kernel, rest = of
        ctx.gradients = gradients = [gradient_like(x) for x in by]
        ctx.save_for_backward(*given)
        return kernel(given, gradients, rest)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (kernel, rest), gradients, given = ctx.of, ctx.gradients, ctx.saved_tensors
        ctx.gradients = None
        # Several gradients may come as one, under vmap or with `is_grads_batched`.
        if _is_grad_enabled() or _transforms() is not None or is_batched(grad):
            grad = grad if kernel.is_one or kernel.form.derivatives is not None else grad.unsqueeze(-1)
            return None, None, *[grad * slope for slope in kernel.slopes(given, *rest[:3])]
        if gradients is None:  # the graph was kept for a backward once more
            by = [x for x, is_wanted in zip(given, _marks(kernel.form), strict=True) if is_wanted]
            gradients = [gradient_like(x) for x in by]
            kernel(given, gradients, rest)
        if not kernel.is_one:
            each = grad if kernel.form.derivatives is not None else grad.unsqueeze(-1)
            for made in gradients:
                made.mul_(each)
        elif (factor := grad.item()) != 1.0:
            if kernel.is_narrow:  # rounded once, or what a loss is scaled up for would be lost before
                kernel(given, gradients, rest, factor)
            else:
                for made in gradients:
                    made.mul_(factor)
        return None, None, *gradients


def _marks(form: Form) -> list[bool]:
    return [is_wanted for c, is_wanted in zip(form.columns, form.wanted, strict=True) if c is not None]


# What torch's own `apply` does besides: in the forward it is for functorch, which was ruled out before; in the
# backward it looks which kind of backward there is.
_apply = torch._C._FunctionBase.__dict__["apply"].__get__(None, _Loss)
_Loss._backward_cls.apply = _Loss.backward  # type: ignore[attr-defined]
