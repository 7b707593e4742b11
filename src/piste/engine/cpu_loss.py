"""Elementwise losses on the CPU: value, gradient and check of every element in one pass over memory.

The kernel is made of the formula and its written derivatives. It leaves the gradient of a loss whose own gradient is
1, which is what a backward nearly always brings; any other number costs the backward one pass over that gradient.
Partial sums lie one to a block and are added in order, so the result does not depend on the number of threads.
A second backward, and whatever `unserved` names, go to the eager engine.
"""

from __future__ import annotations

import functools
import hashlib
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..formula import FormulaError, Symbol, trace
from ..mathematics import Letter, is_number
from . import native
from .buffers import gradient_like
from .once import BLOCKS, COLUMNS, FAULTY, NUMBERS, OUT, PARTIALS, SERVED, SIZE, Once, can_serve
from .source import Lines

__all__ = [
    "DTYPES",
    "Fused",
    "LossLines",
    "Unserved",
    "as_number",
    "foreign",
    "is_batched",
    "reduced",
    "source",
    "transforms",
    "unserved",
]

BLOCK = 1 << 15  # elements that a thread takes at a time
TILE = 1 << 10  # elements whose sum is kept in the precision of the elements
ALONE = 4  # blocks that one thread finishes sooner than a team can be woken; of exp or log, one
DTYPES = {torch.float32: "float32", torch.float64: "float64"}
_BYTES = {"float32": 4, "float64": 8}
_PLAIN = {Tensor, torch.nn.Parameter}
_is_compiling = torch.compiler.is_compiling
is_batched = torch._C._functorch.is_legacy_batchedtensor
transforms = torch._C._functorch.peek_interpreter_stack
_dispatchers = torch._C._len_torch_dispatch_stack
_overrides = torch._C._len_torch_function_stack


def unserved(letters: Sequence[Tensor], weight: Tensor | None = None) -> str | None:
    """Why no kernel can take these operands, or None."""
    operands = letters if weight is None else (*letters, weight)
    return foreign(operands) or apart(operands)


def foreign(operands: Sequence[Tensor], gradients: int = 1) -> str | None:
    """Why operands like these, or any at the moment, are torch's business; so many of the first may need gradients."""
    if _is_compiling():
        return "torch is tracing"
    for k, x in enumerate(operands):
        if type(x) not in _PLAIN:
            return "an operand is no plain tensor"
        if k >= gradients and x.requires_grad:
            return "another operand than the first needs a gradient"
    if transforms() is not None or _dispatchers() or _overrides() or forward_ad._current_level >= 0:
        return "torch is tracing or transforming"
    return None


def apart(operands: Sequence[Tensor]) -> str | None:
    """Why operands that lie like these can't be walked at once."""
    first = operands[0]
    dtype, shape = first.dtype, first.shape
    for x in operands:
        if x.layout is not torch.strided or not x.is_cpu:
            return "an operand is not a dense tensor on the CPU"
        if x.dtype is not dtype or dtype not in DTYPES:
            return "the operands are not all of float32, or all of float64"
        if x.shape != shape or not x.is_contiguous():
            return "the operands do not lie in memory alike"
        if x.is_neg():
            return "a sign has yet to be applied"
    if not first.numel():
        return "there are no elements"
    return None


def reduced(
    loss: Any,
    letters: Sequence[Tensor],
    options: dict[str, Any],
    divisor: float | None,
    is_checked: bool,
    weight: Tensor | None = None,
) -> Tensor | None:
    """The sum over all elements divided by `divisor` (None: by their number).

    None where `unserved` has a reason, where no kernel can be made, and where a value has to be refused: the eager
    engine finds it again and names it.
    """
    operands = letters if weight is None else (*letters, weight)
    if foreign(operands) is not None:
        return None
    if weight is not None:
        operands = (*letters, weight.expand(letters[0].shape))
    ready = Ready(loss, options, divisor, is_checked, len(letters), weight is not None)
    # What is spread over the elements, or lies otherwise, is copied: one pass, where the eager engine takes several.
    return ready([x.contiguous() for x in operands])


def as_number(divisor: Tensor) -> float | None:
    """A divisor that can be read now, and needs no gradient."""
    return None if foreign((divisor,)) is not None or not divisor.is_cpu or divisor.requires_grad else divisor.item()


class Ready:
    """A loss with all that is known before its operands: call it with those, the weight last."""

    __slots__ = ("divisor", "is_checked", "is_weighted", "kernels", "letters", "loss", "options")

    def __init__(
        self,
        loss: Any,
        options: dict[str, Any],
        divisor: float | None,
        is_checked: bool,
        letters: int,
        is_weighted: bool = False,
    ) -> None:
        self.loss, self.options, self.divisor, self.is_checked = loss, options, divisor, is_checked
        self.letters, self.is_weighted = letters, is_weighted
        self.kernels: dict[torch.dtype, _Kernel | None] = {}

    def __call__(self, operands: Sequence[Tensor]) -> Tensor | None:
        if foreign(operands) is not None:
            return None
        x = operands[0]
        try:
            kernel = self.kernels[x.dtype]
        except KeyError:
            given = tuple(self.options.items())
            kernel = _kernel(self.loss, self.letters, given, x.dtype, self.is_weighted, self.is_checked)
            self.kernels[x.dtype] = kernel
        if kernel is None:
            return None
        try:
            if x.requires_grad and torch.is_grad_enabled():
                return _apply(x, (self, kernel, operands))
            return kernel(operands, self.divisor, None)
        except Unserved:
            return None

    def slope(self, *operands: Tensor) -> Tensor:
        """The gradient again, as torch operations: for a second backward, or a backward once more."""
        letters = operands[: self.letters]
        slope = self.loss.derivatives(*letters, **self.options)[0]
        slope = slope * (1.0 / (letters[0].numel() if self.divisor is None else self.divisor))
        return slope * operands[-1] if self.is_weighted else slope


class Unserved(Exception):
    """The operands, or a value among them, want the eager engine."""


class _Kernel:
    """The machine code of a loss with its options, in one dtype."""

    def __init__(
        self, code: native.Kernel, dtype: torch.dtype, columns: int, options: Sequence[float], alone: int
    ) -> None:
        self.code, self.options, self.alone = code, options, alone
        self._scalar = torch.empty((), dtype=dtype)
        self.once = Once(code, dtype, columns, BLOCK, options) if can_serve(columns, options) else None

    def __call__(self, operands: Sequence[Tensor], divisor: float | None, grad: Tensor | None) -> Tensor:
        out = torch.empty_like(self._scalar)
        if self.once is not None and (divisor is None or divisor == 1.0):
            became = self.once(divisor is None, out, grad, operands)
            if became == SERVED:
                return out
            if became == FAULTY:
                raise Unserved
        if apart(operands) is not None:
            raise Unserved
        elements = operands[0].numel()
        blocks = (elements + BLOCK - 1) // BLOCK
        partials = array("d", bytes(16 * blocks))
        numbers = array("d", (1.0 / (elements if divisor is None else divisor), *self.options))
        table = [0, blocks, elements, partials.buffer_info()[0], out.data_ptr(), numbers.buffer_info()[0]]
        table.append(0 if grad is None else grad.data_ptr())
        held = array("q", [*table, *(operand.data_ptr() for operand in operands)])
        at = held.buffer_info()[0]
        threads = torch.get_num_threads() if blocks > self.alone else 1
        self.code.parallel("forward" if grad is None else "gradient", at, threads)
        self.code.call["finish"](at)
        if numbers[0]:  # it counts the values that are refused now
            raise Unserved
        return out


class Fused(torch.autograd.Function):
    """A run that leaves the gradient as it computes the loss; `run.slope` is the same gradient in torch operations."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, run: Any) -> Tensor:
        ctx.run, ctx.grad = run, gradient_like(x)
        ctx.save_for_backward(x)
        return run(x, ctx.grad)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        made, ctx.grad = ctx.grad, None
        # Several gradients may come as one, under vmap or with `is_grads_batched`.
        if made is None or torch.is_grad_enabled() or transforms() is not None or is_batched(grad):
            return grad * ctx.run.slope(*ctx.saved_tensors), None
        if grad.item() != 1.0:
            made.mul_(grad)
        return made, None


class _Elementwise(Fused):
    """Of operands that autograd keeps, and lets go after the backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, call: tuple[Ready, _Kernel, Sequence[Tensor]]) -> Tensor:
        ctx.run, kernel, operands = call
        ctx.grad = gradient_like(x)
        ctx.save_for_backward(*operands)
        return kernel(operands, ctx.run.divisor, ctx.grad)


# What torch's own `apply` does besides: in the forward it is for functorch, which was ruled out before; in the
# backward it looks which kind of backward there is.
_apply = torch._C._FunctionBase.__dict__["apply"].__get__(None, _Elementwise)
_Elementwise._backward_cls.apply = Fused.backward  # type: ignore[attr-defined]


@functools.lru_cache(maxsize=512)
def _kernel(
    loss: Any,
    letters: int,
    options: tuple[tuple[str, Any], ...],
    dtype: torch.dtype,
    is_weighted: bool,
    is_checked: bool,
) -> _Kernel | None:
    """The kernel of a loss, or None where none can be made of it."""
    if dtype not in DTYPES:
        return None
    try:
        text = source(loss, letters, options, DTYPES[dtype], is_weighted, is_checked)
    except FormulaError:
        return None
    numbers = [float(v) for _, v in options if is_number(v)]
    code = native.load(text, ("forward", "gradient", "finish"))
    is_costly = any(word in text for word in ("exp32(", "log32(", "log1p32(", "math."))
    return _Kernel(code, dtype, letters + is_weighted, numbers, 1 if is_costly else ALONE)


class LossLines(Lines):
    """Lines whose exp and log vectorise, and whose options are read when the kernel runs."""

    def name(self, value: Any) -> str:
        return f"o_{value.name}" if isinstance(value, Letter) else super().name(value)

    def key(self, value: Any) -> Any:
        return value.name if isinstance(value, Letter) else super().key(value)

    def _expression(self, value: Symbol) -> str:
        if self._precision == "float32" and value.op in ("exp", "log", "log1p"):
            return f"{value.op}32({self.name(value.args[0])})"
        return super()._expression(value)


def source(
    loss: Any, letters: int, options: tuple[tuple[str, Any], ...], dtype: str, is_weighted: bool, is_checked: bool
) -> str:
    """The kernel as Python that Numba compiles: `forward` gives the value, `gradient` the gradient by the first too."""
    names = loss.value.__code__.co_varnames[:letters]
    given = {k: Letter(k, v) if is_number(v) else v for k, v in options}
    symbols = [Symbol("input", f"{name}_") for name in names]
    value = trace(loss.value, *symbols, **given)
    slope = trace(loss.derivatives, *symbols, **given)[0]
    rules = loss.domains(**dict(options)) if is_checked else ()
    broken = [b for b in (trace(rule.bad, *symbols) for rule in rules) if isinstance(b, Symbol)]
    columns = [*names, *(["weight"] if is_weighted else [])]
    if is_weighted:
        value, slope = value * Symbol("input", "weight_"), slope * Symbol("input", "weight_")
    numbers = [k for k, v in options if is_number(v)]
    digest = hashlib.sha256(Path(__file__).with_name("polynomials.py").read_bytes()).hexdigest()
    lines = [f"from piste.engine.polynomials import add, exp32, log1p32, log32  # {digest}", ""]
    for entry in ("forward", "gradient"):
        body = LossLines(dtype, "v", lambda symbol: symbol.args[0] if symbol.op == "input" else None)
        made = [f"part = add(part, {body.name(value)})"]
        if broken:
            fault = " | ".join(f"({body.name(condition)})" for condition in broken)
            made.append(f"faults = add(faults, {dtype}(1.0) if {fault} else {dtype}(0.0))")
        if entry == "gradient":
            made.append(f"grad[k] = {body.name(slope * Symbol('input', 'scale'))}")
        lines += _entry(entry, columns, numbers, dtype, [*body.lines, *made])
    return "\n".join([*lines, *_finish(dtype)])


def _entry(entry: str, columns: Sequence[str], numbers: Sequence[str], dtype: str, body: Sequence[str]) -> list[str]:
    """Blocks of elements, claimed until none is left; no `min`, whose error path would stay in the code."""
    places = [f"a_{n} = pointer(table[{COLUMNS + 1 + i}] + at, {dtype})" for i, n in enumerate(columns)]
    return [
        f"def {entry}(table):",
        f"    numbers = pointer(table[{NUMBERS}], float64)",
        f"    scale = {dtype}(numbers[0])",
        *(f"    o_{name} = {dtype}(numbers[{i + 1}])" for i, name in enumerate(numbers)),
        f"    partials = pointer(table[{PARTIALS}], float64)",
        "    while True:",
        "        block = claim(table)",
        f"        if block >= table[{BLOCKS}]:",
        "            break",
        f"        left = table[{SIZE}] - block * {BLOCK}",
        f"        size = {BLOCK} if left > {BLOCK} else left",
        f"        at = block * {BLOCK * _BYTES[dtype]}",
        *(f"        {place}" for place in places),
        f"        grad = pointer(table[{COLUMNS}] + at, {dtype})",
        "        total = 0.0",
        f"        faults = {dtype}(0.0)",
        "        first = 0",
        "        while first < size:",
        f"            last = first + {TILE} if first + {TILE} < size else size",
        f"            part = {dtype}(0.0)",
        "            for k in range(first, last):",
        *(f"                {n}_ = a_{n}[k]" for n in columns),
        *(f"                {line}" for line in body),
        "            total += float64(part)",
        "            first = last",
        "        partials[2 * block] = total",
        "        partials[2 * block + 1] = float64(faults)",
        "",
    ]


def _finish(dtype: str) -> list[str]:
    """The partial sums in order; the number of faults takes the place of the scale."""
    return [
        "def finish(table):",
        f"    partials = pointer(table[{PARTIALS}], float64)",
        f"    numbers = pointer(table[{NUMBERS}], float64)",
        "    total = 0.0",
        "    faults = 0.0",
        f"    for block in range(table[{BLOCKS}]):",
        "        total += partials[2 * block]",
        "        faults += partials[2 * block + 1]",
        f"    pointer(table[{OUT}], {dtype})[0] = {dtype}(total * numbers[0])",
        "    numbers[0] = faults",
        "",
    ]
