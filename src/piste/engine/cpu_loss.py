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
from .source import Lines

__all__ = ["reduced", "source", "unserved"]

BLOCK = 1 << 15  # elements that a thread takes at a time
TILE = 1 << 10  # elements whose sum is kept in the precision of the elements
CLAIMED, BLOCKS, SIZE, PARTIALS, OUT, NUMBERS, COLUMNS = range(
    7
)  # of the table; of the numbers, the first is the scale
_DTYPES = {torch.float32: "float32", torch.float64: "float64"}
_BYTES = {"float32": 4, "float64": 8}
_PLAIN = {Tensor, torch.nn.Parameter}


def unserved(letters: Sequence[Tensor], weight: Tensor | None = None) -> str | None:
    """Why no kernel can take these operands, or None."""
    if torch.compiler.is_compiling():
        return "torch is tracing"
    first = letters[0]
    dtype, shape = first.dtype, first.shape
    for x in letters if weight is None else (*letters, weight):
        if type(x) not in _PLAIN or x.layout is not torch.strided or not x.is_cpu:
            return "an operand is not a plain tensor on the CPU"
        if x.dtype is not dtype or dtype not in _DTYPES:
            return "the operands are not all of float32, or all of float64"
        if x.shape != shape or not x.is_contiguous():
            return "the operands do not lie in memory alike"
        if x.requires_grad and x is not first:
            return "another operand than the first needs a gradient"
    if not first.numel():
        return "there are no elements"
    if (
        torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or forward_ad._current_level >= 0
    ):
        return "torch is tracing or transforming"
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
    if unserved(letters, weight) is not None:
        return None
    x = letters[0]
    given = tuple(options.items()) if options else ()
    kernel = _kernel(loss, len(letters), given, _DTYPES[x.dtype], weight is not None, is_checked)
    if kernel is None:
        return None
    run = _Run(kernel, loss, letters, options, weight, 1.0 / (x.numel() if divisor is None else divisor))
    wants_gradient = x.requires_grad and torch.is_grad_enabled()
    out = Fused.apply(x, run) if wants_gradient else run(x, None)
    return None if run.is_faulty else out


class _Run:
    """One call of a kernel."""

    __slots__ = ("is_faulty", "kernel", "letters", "loss", "options", "scale", "weight")

    def __init__(
        self,
        kernel: native.Kernel,
        loss: Any,
        letters: Sequence[Tensor],
        options: dict[str, Any],
        weight: Tensor | None,
        scale: float,
    ) -> None:
        self.kernel, self.loss, self.letters, self.options = kernel, loss, letters, options
        self.weight, self.scale, self.is_faulty = weight, scale, False

    def __call__(self, x: Tensor, grad: Tensor | None) -> Tensor:
        elements = x.numel()
        blocks = (elements + BLOCK - 1) // BLOCK
        out = torch.empty((), dtype=x.dtype)
        partials = array("d", bytes(16 * blocks))
        numbers = array("d", (self.scale,))
        if self.options:
            numbers.extend([float(v) for v in self.options.values() if is_number(v)])
        table = [0, blocks, elements, partials.buffer_info()[0], out.data_ptr(), numbers.buffer_info()[0]]
        table.append(0 if grad is None else grad.data_ptr())
        for letter in self.letters:
            table.append(letter.data_ptr())
        if self.weight is not None:
            table.append(self.weight.data_ptr())
        held = array("q", table)
        at = held.buffer_info()[0]
        entry = "forward" if grad is None else "gradient"
        if blocks > 1:
            self.kernel.parallel(entry, at, torch.get_num_threads())
        else:
            self.kernel.call[entry](at)
        self.kernel.call["finish"](at)
        self.is_faulty = numbers[0] != 0
        return out

    def slope(self, x: Tensor) -> Tensor:
        """The gradient again, as torch operations: for a second backward, or a backward once more."""
        slope = self.loss.derivatives(x, *self.letters[1:], **self.options)[0] * self.scale
        return slope if self.weight is None else slope * self.weight


def _is_batched(grad: Tensor) -> bool:
    """Whether several gradients come as one, under vmap or `is_grads_batched`."""
    functorch = torch._C._functorch
    return functorch.peek_interpreter_stack() is not None or functorch.is_legacy_batchedtensor(grad)


class Fused(torch.autograd.Function):
    """A run that leaves the gradient as it computes the loss; `run.slope` is the same gradient in torch operations."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, run: _Run) -> Tensor:
        ctx.run, ctx.grad = run, gradient_like(x)
        ctx.save_for_backward(x)
        return run(x, ctx.grad)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        made, ctx.grad = ctx.grad, None
        if made is None or torch.is_grad_enabled() or _is_batched(grad):
            return grad * ctx.run.slope(*ctx.saved_tensors), None
        if grad.item() != 1.0:
            made.mul_(grad)
        return made, None


@functools.lru_cache(maxsize=512)
def _kernel(
    loss: Any, letters: int, options: tuple[tuple[str, Any], ...], dtype: str, is_weighted: bool, is_checked: bool
) -> native.Kernel | None:
    """The kernel of a loss, or None where none can be made of it."""
    try:
        text = source(loss, letters, options, dtype, is_weighted, is_checked)
    except FormulaError:
        return None
    return native.load(text, ("forward", "gradient", "finish"))


class _Lines(Lines):
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
        body = _Lines(dtype, "v", lambda symbol: symbol.args[0] if symbol.op == "input" else None)
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
