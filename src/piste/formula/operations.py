"""The table of operations: what each one does to tensors and floats, its derivative, how it prints, what it costs.

Words, the interpreter, derivatives, printed formulas and code generators read this table. A code generator's dialect
adds how a language spells each operation.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from . import floats
from .rounding import noise, on_float, to_nearest, to_neighbour

__all__ = ["OPERATIONS", "Operation", "apply", "in_dtype"]

Kind = Literal["elementwise", "condition", "scalar", "row", "reduction", "line"]
Function = Callable[..., Any]


@dataclass(frozen=True)
class Operation:
    """One row of the table.

    Attributes:
        name: The `op` of the nodes.
        on_tensors: The operation in torch.
        on_floats: The operation on Python's floats, with the results of IEEE 754 where Python raises. None for
            operations on rows.
        text: The printed form. `{0:4}` is the first operand, in parentheses if its rank is below 4.
        rank: The binding strength of the printed form; 9 binds most tightly.
        derivatives: By each operand, a function of the result and the operands that returns the partial derivative.
            Empty where the derivative is 0. None where `differentiate` has a rule instead of a factor.
        kind: "elementwise" works on each entry; "condition" does so and gives true or false; "scalar" gives one value
            for a row; "row" gives a value for each class; "reduction" gives one value for a tensor;
            "line" gives one for each of its rows or columns.
        registers: An estimate of the registers that machine code takes in between.
    """

    name: str
    on_tensors: Function
    on_floats: Function | None
    text: str
    rank: int = 9
    derivatives: tuple[Function, ...] | None = None
    kind: Kind = "elementwise"
    registers: int = 1


def apply(name: str, *args: Any) -> Any:
    """Apply an operation to tensors, floats, or expressions.

    The first argument that is a tensor or has words of its own (`__words__`) decides; all others are floats.
    """
    for value in args:
        if isinstance(value, Tensor):
            return OPERATIONS[name].on_tensors(*args)
        if hasattr(value, "__words__"):
            return getattr(value.__words__, name)(*args)
    on_floats = OPERATIONS[name].on_floats
    if on_floats is None:
        raise TypeError(f"`{name}` takes a row: a tensor whose last dimension are the classes; received {args[0]!r}")
    return on_floats(*args)


_thread = threading.local()
_traced: torch.dtype | None = None  # of a formula under torch.compile, which traces no locals of a thread


def in_dtype(dtype: torch.dtype, formula: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Return the result of a formula on tensors, whose numbers have a dtype where no operand tells it.

    Such is `where` of two numbers: torch gives it the default dtype, which the user may change.

    Args:
        dtype: The dtype of the computation.
        formula: A formula, or its derivatives.
        *args: Its arguments.
        **options: Its options by name.
    """
    global _traced
    if torch.compiler.is_compiling():
        before, _traced = _traced, dtype
        try:
            return formula(*args, **options)
        finally:
            _traced = before
    before = getattr(_thread, "dtype", None)
    _thread.dtype = dtype
    try:
        return formula(*args, **options)
    finally:
        _thread.dtype = before


def _dtype_of_numbers() -> torch.dtype:
    dtype = _traced if torch.compiler.is_compiling() else getattr(_thread, "dtype", None)
    return torch.float32 if dtype is None else dtype


# --- tensors ------------------------------------------------------------------------------------------------------


def _where_on_tensors(condition: Any, a: Any, b: Any) -> Any:
    if not isinstance(condition, Tensor):
        return floats.where(condition, a, b)
    if not isinstance(a, Tensor) and not isinstance(b, Tensor):
        b = torch.full_like(condition, b, dtype=_dtype_of_numbers())
    return torch.where(condition, a, b)


def _on_two_tensors(function: Callable[[Tensor, Tensor], Tensor]) -> Function:
    """Convert the operand that is a number to a tensor like the other one."""

    def converted(a: Any, b: Any) -> Tensor:
        like = a if isinstance(a, Tensor) else b
        a, b = (
            x if isinstance(x, Tensor) else torch.as_tensor(x, dtype=like.dtype, device=like.device) for x in (a, b)
        )
        return function(a, b)

    return converted


def _each(v: Tensor) -> Tensor:
    return v.unsqueeze(-1)


def _added_up(x: Any) -> Any:
    """Return sums of a sharded tensor in every process: torch 2.9 adds a number to the part of each process."""
    placements = getattr(x, "placements", ())
    if not any(place.is_partial() for place in placements):
        return x
    from torch.distributed.tensor import Replicate

    return x.redistribute(placements=[Replicate() if place.is_partial() else place for place in placements])


def _tensor_total(x: Tensor) -> Tensor:
    # Kernels also add in double precision; MPS has none.
    total: Tensor = _added_up(x.sum() if x.device.type == "mps" else x.sum(dtype=torch.float64))
    return total.to(x.dtype)


def _tensor_mean(x: Tensor) -> Tensor:
    # Of a sharded tensor, torch 2.9 takes the mean of the means of parts that differ in size.
    total = x.sum() if x.device.type == "mps" else x.sum(dtype=torch.float64)
    return (total / x.numel()).to(x.dtype)


def _line_total(dim: int) -> Function:
    def on_tensors(x: Tensor) -> Tensor:
        if x.dim() < -dim:  # a vector is a row, whose columns have one number
            return x
        wide = x if x.device.type == "mps" else x.double()
        total: Tensor = _added_up(wide.sum(dim, keepdim=True))
        return total.to(x.dtype)

    return on_tensors


def _line_mean(dim: int) -> Function:
    return lambda x: _line_total(dim)(x) / x.shape[dim] if x.dim() >= -dim else x


def _total(x: Tensor) -> Tensor:
    return x.sum(-1)


def _top(x: Tensor) -> Tensor:
    return x.amax(-1)


def _norm(x: Tensor, p: float) -> Tensor:
    return torch.linalg.vector_norm(x, p, dim=-1)


def _size(x: Tensor) -> int:
    return x.shape[-1]


def _index(x: Tensor) -> Tensor:
    return torch.arange(x.shape[-1], device=x.device)


def _log_softmax(x: Tensor) -> Tensor:
    if hasattr(x, "to_local"):
        # Within `loss_parallel` of PyTorch the operator on a DTensor has the gradient of its input for its own.
        shifted = x - x.detach().amax(-1, keepdim=True)
        return shifted - shifted.exp().sum(-1, keepdim=True).log()
    return torch.log_softmax(x, -1)


def _pick(x: Any, k: Tensor) -> Any:
    if not isinstance(x, Tensor):  # a number for every class
        return x
    if x.dim() == 1 and k.dim():
        return x[k]
    picked: Any = x.gather(-1, k.unsqueeze(-1))
    if hasattr(picked, "to_local") and any(place.is_partial() for place in picked.placements):
        # Each process has the entries of its classes, and PyTorch can't add them up after a change of the shape.
        from torch.distributed.tensor import Replicate

        picked = picked.redistribute(
            placements=[Replicate() if place.is_partial() else place for place in picked.placements]
        )
    return picked.squeeze(-1)


def _hinges(x: Tensor, k: Tensor) -> Tensor:
    z, counts, _ = _listed_against_others(x, k)
    return torch.where(counts, z, 0).sum((-1, -2))


def _hinge_slopes(x: Tensor, k: Tensor) -> Tensor:
    _, counts, j = _listed_against_others(x, k)
    counted = counts.to(x.dtype)
    return counted.sum(-2).scatter_add(-1, j, -counted.sum(-1))


def _listed_against_others(x: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return 1 - (x_j - x_i) for each entry of k and each class i, whether it counts, and j (0 after the list ends)."""
    is_listed = (k < 0).to(torch.int64).cumsum(-1) == 0
    j = torch.where(is_listed, k, 0)
    member = torch.zeros_like(x).scatter_add(-1, j, is_listed.to(x.dtype)) > 0
    z = 1 - x.gather(-1, j).unsqueeze(-1) + x.unsqueeze(-2)
    return z, is_listed.unsqueeze(-1) & ~member.unsqueeze(-2) & ~(z <= 0), j  # NaN counts


# --- derivatives --------------------------------------------------------------------------------------------------


def _one(r: Any, *operands: Any) -> float:
    return 1.0


def _minus_one(r: Any, *operands: Any) -> float:
    return -1.0


def _quotient_by_denominator(r: Any, a: Any, b: Any) -> Any:
    return -(r * r) if isinstance(a, float) and a == 1 else -(r / b)


def _power_by_base(r: Any, a: Any, b: Any) -> Any:
    return 2.0 * a if isinstance(b, float) and b == 2 else b * a ** (b - 1)


def _power_by_exponent(r: Any, a: Any, b: Any) -> Any:
    return apply("where", (a == 0) & (b >= 0), 0.0, r * apply("log", a))


def _sigmoid_slope(r: Any, a: Any) -> Any:
    s = apply("sigmoid", -abs(a))  # r (1 - r) is not exact where r is near 1
    return s * (1.0 - s)


def _share(is_chosen: Any, is_tie: Any) -> Any:
    """Share the gradient equally between equal numbers, as in torch."""
    return apply("where", is_chosen, 1.0, apply("where", is_tie, 0.5, 0.0))


# --- the table ----------------------------------------------------------------------------------------------------


def _infix(name: str, rank: int, function: Function, *derivatives: Function, **more: Any) -> Operation:
    right = rank + (name in ("-", "/"))
    text = f"{{0:{rank}}} {more.pop('symbol', name)} {{1:{right}}}"
    return Operation(name, function, more.pop("on_floats", function), text, rank, derivatives, **more)


def _condition(name: str, rank: int, function: Function, symbol: str | None = None) -> Operation:
    return _infix(name, rank, function, symbol=symbol or name, kind="condition")


def _function(name: str, on_tensors: Function, on_floats: Function, *derivatives: Function, **more: Any) -> Operation:
    more.setdefault("text", f"{name}({{0}})")
    return Operation(name, on_tensors, on_floats, derivatives=derivatives, **more)


def _of_row(name: str, kind: Kind, on_tensors: Function, text: str, **more: Any) -> Operation:
    return Operation(name, on_tensors, more.pop("on_floats", None), text, kind=kind, **more)


def _of_tensor(name: str, on_tensors: Function, text: str, kind: Kind = "reduction") -> Operation:
    return Operation(name, on_tensors, lambda x: x, text, kind=kind)


def _rounding(name: str, on_tensors: Function, operands: str = "{0}") -> Operation:
    return _function(name, on_tensors, on_float(on_tensors), text=f"{name}({operands})", registers=2)


OPERATIONS: dict[str, Operation] = {
    operation.name: operation
    for operation in (
        _infix("+", 4, operator.add, _one, _one),
        _infix("-", 4, operator.sub, _one, _minus_one),
        _infix("*", 5, operator.mul, lambda r, a, b: b, lambda r, a, b: a),
        _infix("/", 5, operator.truediv, lambda r, a, b: 1.0 / b, _quotient_by_denominator, on_floats=floats.divide),
        _infix("**", 7, operator.pow, _power_by_base, _power_by_exponent, on_floats=floats.power),
        _condition("<", 3, operator.lt),
        _condition("<=", 3, operator.le),
        _condition(">", 3, operator.gt),
        _condition(">=", 3, operator.ge),
        _condition("==", 3, operator.eq),
        _condition("!=", 3, operator.ne),
        _condition("&", 2, operator.and_, "and"),
        _condition("|", 1, operator.or_, "or"),
        _function("invert", operator.invert, operator.not_, text="not {0:3}", rank=2, kind="condition"),
        _function("neg", operator.neg, operator.neg, _minus_one, text="-{0:6}", rank=6),
        _function("abs", operator.abs, operator.abs, lambda r, a: apply("sign", a), text="|{0}|"),
        _function("sqrt", torch.sqrt, floats.sqrt, lambda r, a: 0.5 / r),
        _function("exp", torch.exp, floats.exp, lambda r, a: r, registers=6),
        _function("expm1", torch.expm1, floats.expm1, lambda r, a: r + 1.0, text="exp({0}) - 1", rank=4, registers=6),
        _function("log", torch.log, floats.log, lambda r, a: 1.0 / a, registers=6),
        _function("log1p", torch.log1p, floats.log1p, lambda r, a: 1.0 / (1.0 + a), text="log(1 + {0:5})", registers=6),
        _function("sigmoid", torch.sigmoid, floats.sigmoid, _sigmoid_slope, registers=6),
        _function("sign", torch.sign, floats.sign),
        _function(
            "maximum",
            _on_two_tensors(torch.maximum),
            floats.maximum,
            lambda r, a, b: _share(a > b, a == b),
            lambda r, a, b: _share(a < b, a == b),
            text="max({0}, {1})",
        ),
        _function(
            "minimum",
            _on_two_tensors(torch.minimum),
            floats.minimum,
            lambda r, a, b: _share(a < b, a == b),
            lambda r, a, b: _share(a > b, a == b),
            text="min({0}, {1})",
        ),
        Operation("where", _where_on_tensors, floats.where, "({1} if {0} else {2})"),
        _rounding("bfloat16", to_nearest(torch.bfloat16)),
        _rounding("float16", to_nearest(torch.float16)),
        _rounding("bfloat16_at_random", to_neighbour(torch.bfloat16), "{0}, {1}"),
        _rounding("float16_at_random", to_neighbour(torch.float16), "{0}, {1}"),
        _rounding("noise", noise, "{0}, {1}, {2}"),
        _of_tensor("tensor_total", _tensor_total, "sum({0})"),
        _of_tensor("tensor_mean", _tensor_mean, "mean({0})"),
        _of_tensor("row_total", _line_total(-1), "row sum({0})", "line"),
        _of_tensor("row_mean", _line_mean(-1), "row mean({0})", "line"),
        _of_tensor("column_total", _line_total(-2), "column sum({0})", "line"),
        _of_tensor("column_mean", _line_mean(-2), "column mean({0})", "line"),
        _of_row("each", "row", _each, "{0}", on_floats=lambda v: v),
        _of_row("total", "scalar", _total, "sum({0})"),
        _of_row("top", "scalar", _top, "max({0})"),
        _of_row("norm", "scalar", _norm, "norm({0}, {1})"),
        _of_row("size", "scalar", _size, "C", derivatives=()),
        _of_row("index", "row", _index, "c", derivatives=()),
        _of_row("pick", "scalar", _pick, "{0:8}[{1}]"),
        _of_row("log_softmax", "row", _log_softmax, "{0:4} - log(sum(exp({0})))", rank=4),
        _of_row("hinges", "scalar", _hinges, "sum(max(0, 1 - {0:8}[j] + {0:8}[i]) for j in {1}, i not in {1})"),
        _of_row("hinge_slopes", "row", _hinge_slopes, "hinge_slopes({0}, {1})", derivatives=()),
    )
}
