"""The specifications that backends turn into kernels: an optimizer's step, and a loss with its gradients."""

from __future__ import annotations

import inspect
import struct
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch

from .violations import ValueCheck, Violation

__all__ = [
    "MANY_ELEMENTS",
    "NO_IGNORE_INDEX",
    "OF_REGIONS",
    "SHORT_ROWS",
    "STORAGES",
    "Bound",
    "BoundKind",
    "LossArguments",
    "LossKernelSpec",
    "LossSpec",
    "Operand",
    "ParamState",
    "StepSpec",
    "SumSpec",
    "has_few_long_rows",
    "has_many_short_rows",
    "is_matrix",
    "parameters",
]


def parameters(formula: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of the parameters of a formula."""
    return tuple(inspect.signature(formula).parameters)


def is_matrix(p: torch.Tensor, least_size: int = 0) -> bool:
    """Return whether a parameter has two last dimensions of at least a size."""
    return p.dim() > 1 and min(p.shape[-2:]) >= least_size


@dataclass(frozen=True, eq=False)
class StepSpec:
    """An optimizer's step, for every tensor of a group.

    `element(p, g, buffers, scalars)` returns the new p and the new buffers of one element; `per_step` restates or
    adds scalars, in order, from the group's numbers and the counters (the step count `t` first), in double precision,
    once for a tensor. A per-step formula named like a counter is the counter's next value. Where `uses_position` is
    True, the scalars of `element` include "position", the place of the element. The number "epsilon" is the machine
    epsilon of the parameter's dtype.
    """

    name: str
    element: Callable[[Any, Any, list[Any], Mapping[str, Any]], tuple[Any, list[Any]]]
    numbers: tuple[str, ...]  # the group's, e.g. lr, beta1, beta2, eps
    buffers: tuple[str, ...]  # letters of the tensors kept, each of the parameter's shape
    counters: tuple[str, ...]  # letters of the 0-d tensors kept; "t" is counted up before the step
    per_step: Mapping[str, Callable[..., Any]]
    by_dtype: Mapping[torch.dtype, StepSpec] = field(default_factory=dict)  # of parameters that step in another way
    uses_position: bool = False
    of_vectors: StepSpec | None = None  # the step of parameters that are no matrices, if it is another one
    least_size: int = 0  # of the last two dimensions of a matrix
    sums: SumSpec | None = None  # sums over all parameters, from which some of the numbers follow
    lines: Mapping[str, str] = field(default_factory=dict)  # buffers of a number for each "row" or "column"
    arguments: Mapping[str, tuple[str, ...]] = field(init=False)  # of each formula of `per_step`
    unread: Set[str] = field(init=False)  # numbers that `per_step` restates before a formula reads them

    def __post_init__(self) -> None:
        # found here, as torch.compile can't trace the look at a signature
        object.__setattr__(self, "arguments", {name: parameters(formula) for name, formula in self.per_step.items()})
        read: set[str] = set()
        unread: set[str] = set()
        for name, arguments in self.arguments.items():
            read.update(arguments)
            unread.update({name} - read)
        object.__setattr__(self, "unread", unread)

    def of(self, p: torch.Tensor) -> StepSpec:
        """Return the step of a parameter, which may depend on its dtype and on its dimensions."""
        spec = self if self.of_vectors is None or is_matrix(p, self.least_size) else self.of_vectors
        return spec.by_dtype.get(p.dtype, spec)

    def scalars(
        self, numbers: Mapping[str, Any], counters: Mapping[str, Any], store: Callable[[str, Any], Any]
    ) -> dict:
        """All scalars of this step; `store(letter, value)` keeps a counter and returns it as kept."""
        known = {**numbers, **counters}
        for name, formula in self.per_step.items():
            value = formula(**{asked: known[asked] for asked in self.arguments[name]})
            known[name] = store(name, value) if name in self.counters else value
        return known


@dataclass(frozen=True, eq=False)
class SumSpec(StepSpec):
    """Sums over all elements of some parameters.

    `element` returns the parameter, and the terms that are added in place of the new buffers. There are no counters.
    """


@dataclass(frozen=True, eq=False)
class ParamState:
    """One parameter with its gradient, buffers and counters, and the scales of the buffers that are int8.

    `whole` is the DTensor of which `p` is the part that this process holds, if it is one.
    """

    p: Any
    g: Any
    buffers: list[Any]
    counters: list[Any]
    scales: Sequence[Any] = ()
    whole: Any = None


OF_REGIONS = ("logits", "classes")
"""The kinds of operands from which rows that are regions are made."""


BoundKind = Literal["from 0 to", "up to", "of size", "class"]


class Bound(NamedTuple):
    """A range of valid values, which a kernel verifies for many values with one instruction.

    If a value is outside, the kernel declines the call, and the exact checks accept or reject it. NaN may count as
    inside or outside.

    Attributes:
        operand: the index of the operand.
        kind: all values are "from 0 to" a number, "up to" it, "of size" that number, with either sign, or each is the
            index of a "class".
        number: that number; 0 with indices.
    """

    operand: int
    kind: BoundKind
    number: float


class LossSpec(NamedTuple):
    """A loss with its options; hashable, so that equal specs share their kernels.

    Attributes:
        formula: the loss of one element, or of one row where `derivatives` is None.
        derivatives: the derivatives by each operand, of a loss of elements; a loss of rows has those of its formula.
        kinds: the kind of each operand of the formula, and None for an operand that is left out: "element" or
            "weight" (a factor for each element, after the formula's operands); or "row" (a number for each class),
            "shared" (one row for all samples), "number" (of a sample), "index" (a class), "labels" (a row of classes).
            Of rows that are regions, one for each class of a sample: "logits" (the formula takes their softmax over
            the classes) and "classes" (an index for each place of a sample; the formula takes labels 0 and 1).
        options: the options of the formula, by name.
        faults: conditions on an element or row that make the kernel decline the call.
        bounds: ranges outside which the kernel declines the call.
        mode: "sum" for one number, or "none" for a number for each element or row.
        divisor: the denominator of a mean: a number "given" in the arguments of the call, a tensor on the "device"
            in these arguments, the "count" of rows that are not ignored, or the "weights" (of the last operand, at the
            class index) of those rows.
        checks: all conditions on which values are rejected, for backends that can't decline a call once it is launched;
            others have `faults` and `bounds`.
        index_error: returns the error for class indices out of range, or of no rows; see `Violation`.
        rejects_nothing: whether a denominator of 0, a "count" or "weights", is an error.
    """

    formula: Callable[..., Any]
    derivatives: Callable[..., Any] | None
    kinds: tuple[str | None, ...]
    options: tuple[tuple[str, Any], ...] = ()
    faults: tuple[Callable[..., Any], ...] = ()
    bounds: tuple[Bound, ...] = ()
    mode: str = "sum"
    divisor: str = "given"
    checks: tuple[ValueCheck, ...] = ()
    index_error: Callable[[Violation], Exception] | None = None
    rejects_nothing: bool = False


STORAGES = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}
"""The dtypes of kernels' operands, other than class indices (int64)."""
_NARROW = ("bfloat16", "float16")


class Operand(NamedTuple):
    """An operand of a kernel: its name in the formula, its kind as in `LossSpec.kinds`, and its dtype."""

    name: str
    kind: str
    storage: str


class LossKernelSpec(NamedTuple):
    """A loss for operands of some dtypes, with the gradients that are wanted: all that a kernel is made of."""

    formula: Callable[..., Any]
    derivatives: Callable[..., Any] | None
    columns: tuple[Operand | None, ...]
    options: tuple[tuple[str, Any], ...]
    faults: tuple[Callable[..., Any], ...]
    wanted: tuple[bool, ...]  # for each operand, whether its gradient is computed
    bounds: tuple[Bound, ...]
    mode: str
    divisor: str
    checks: tuple[ValueCheck, ...] = ()
    index_error: Callable[[Violation], Exception] | None = None
    rejects_nothing: bool = False

    @classmethod
    def of(cls, spec: LossSpec, dtype: torch.dtype, wanted: Sequence[bool]) -> LossKernelSpec:
        """Return the spec for a first operand of a dtype; `wanted` has an entry for each operand that is not None."""
        first = STORAGES[dtype]
        wide = "float32" if first in _NARROW else first
        storages = {"shared": wide, "number": wide, "index": "int64", "labels": "int64", "classes": "int64"}
        names = (*spec.formula.__code__.co_varnames[: spec.formula.__code__.co_argcount], "weight")
        columns = tuple(
            None if kind is None else Operand(name, kind, storages.get(kind, first))
            for name, kind in zip(names, spec.kinds, strict=False)
        )
        flags = iter(wanted)
        asked = tuple(c is not None and next(flags) for c in columns)
        return cls(
            spec.formula, spec.derivatives, columns, spec.options, spec.faults, asked, spec.bounds, spec.mode,
            spec.divisor, spec.checks, spec.index_error, spec.rejects_nothing,
        )  # fmt: skip

    @property
    def storage(self) -> str:
        """The dtype of the result."""
        return next(c.storage for c in self.columns if c is not None)

    @property
    def dtype(self) -> str:
        """The dtype of the computation."""
        return "float32" if self.storage in _NARROW else self.storage

    @property
    def operands(self) -> list[Operand]:
        """The operands that are not None."""
        return [c for c in self.columns if c is not None]

    @property
    def classes(self) -> Operand | None:
        """The operand of class indices: one for each row, or a list."""
        return next((c for c in self.operands if c.kind in ("index", "labels")), None)

    @property
    def grad_flags(self) -> list[bool]:
        """For each operand in `operands`, whether its gradient is computed."""
        return [is_wanted for c, is_wanted in zip(self.columns, self.wanted, strict=True) if c is not None]

    @property
    def grad_operands(self) -> list[Operand]:
        """The operands whose gradients are computed."""
        return [c for c, is_wanted in zip(self.columns, self.wanted, strict=True) if is_wanted and c is not None]


SHORT_ROWS, MANY_ELEMENTS = 64, 4096
"""The most classes and the least elements of `has_many_short_rows`."""


LONG_ROWS, FEW_ROWS = 1 << 16, 4
"""The fewest classes and one more than the most rows of `has_few_long_rows`."""


def has_many_short_rows(x: torch.Tensor) -> bool:
    """Return whether a backend may compute the rows of an operand by a kernel of its own, many at a time."""
    return x.dim() > 0 and x.shape[-1] <= SHORT_ROWS and x.numel() >= MANY_ELEMENTS


def has_few_long_rows(x: torch.Tensor) -> bool:
    """Return whether threads share each row of an operand; by its shape alone, so that they don't decide the bits."""
    return x.dim() > 1 and x.shape[-1] >= LONG_ROWS and x.numel() < x.shape[-1] * FEW_ROWS


NO_IGNORE_INDEX = -(1 << 62)
"""The `ignore_index` that no target has: no row is ignored."""


class LossArguments(NamedTuple):
    """The arguments of a call of a loss, other than its operands.

    Attributes:
        packed: divisor, ignored and dims as a C structure, for kernels in machine code.
        divisor: the denominator of a mean; 0 stands for the number of rows or elements.
        divisor_tensor: the denominator of a mean where the device holds it.
        ignored: the class index of rows that are left out, or NO_IGNORE_INDEX.
        is_nothing_nan: whether the mean of no rows is NaN; otherwise it is 0, or the kernel declines it.
        dims: the number of dimensions that the first operand must have, with more than one class; negative: any.
        in_place: whether the gradient by the first operand replaces it in memory.
    """

    packed: bytes
    divisor: float
    ignored: int
    is_nothing_nan: bool
    dims: int
    divisor_tensor: torch.Tensor | None = None
    in_place: bool = False

    @classmethod
    def of(
        cls, divisor: float | torch.Tensor, ignored: int = NO_IGNORE_INDEX, is_nothing_nan: bool = True, dims: int = -1
    ) -> LossArguments:
        """Return the arguments with their packed form."""
        if isinstance(divisor, torch.Tensor):
            return cls(b"", 0.0, ignored, is_nothing_nan, dims, divisor)
        # torch.compile can't trace `struct`, and no kernel runs while it traces.
        packed = b"" if torch.compiler.is_compiling() else struct.pack("=dqq", divisor, ignored, dims)
        return cls(packed, divisor, ignored, is_nothing_nan, dims)
