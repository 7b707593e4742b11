"""Schedule the passes over a row: from the graph of a formula over rows to loops, in an order that any language prints.

A loss of a row, and its gradients, are made of sums over the row, of scalars that these sums give, and of a result for
each entry. `schedule_row` rewrites the formula so that only reductions (`top`, `total`, `hinges`) and elementwise
operations are left, and orders the reductions in passes:

1. A reduction waits for the reductions that its summand is made of. Cross entropy takes the largest entry first, then
   the sum of exp(x - largest).
2. Every sum that no other reduction waits for is left to the last pass of sums, so that there are as few as possible.
3. The exponential or sigmoid that the first pass of sums computes for each entry may be stored and read by later
   passes: that which it sums, or else one that the gradients need.

The last pass writes the gradients. It is not in the list: it follows from `RowSchedule.gradients`.

Lowered expressions consist of

- inputs that are rows; `index` (the number of the entry) and `hinge_slopes`, which are rows too;
- inputs that are scalars, among them `CLASSES` and `SCALE`;
- `pick(x, k)` of an input row at an input index: one entry, loaded by its index;
- reductions over the row: scalars;
- `each(scalar)`: a scalar broadcast over the row;
- elementwise operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..formula.differentiate import RowGradient
from ..formula.expression import Expr, FormulaError, topological_order
from ..formula.properties import RowTest, is_never_positive

__all__ = ["CLASSES", "REDUCTIONS", "SCALE", "RowPass", "RowSchedule", "ScheduledGradient", "schedule_row"]

CLASSES = Expr("input", "classes")
"""The number of entries of a row."""
SCALE = Expr("input", "scale")
"""The factor of the gradients: 1 over the denominator of a mean, times the gradient of the result."""
REDUCTIONS = ("top", "total", "hinges")
"""The largest entry, the sum, and the sum of the hinges between the listed classes and the others."""


COSTLY = ("exp", "sigmoid")
"""The operations whose results a pass may store."""


@dataclass(frozen=True)
class RowPass:
    """One loop over the entries of a row.

    Attributes:
        reductions: The nodes that the loop computes: one `top`, one `hinges`, or any number of `total`.
        reads: The rows whose entries the loop loads, in order.
        stores: The exponential or sigmoid that the loop leaves for each entry, or None. Later passes load it instead
            of computing it.
    """

    reductions: tuple[Expr, ...]
    reads: tuple[str, ...]
    stores: Expr | None = None

    @property
    def kind(self) -> str:
        """Return "top", "total" or "hinges"."""
        return self.reductions[0].op


@dataclass(frozen=True)
class ScheduledGradient:
    """The gradient by one row, times `SCALE`.

    Attributes:
        operand: The name of the row.
        dense: The gradient at every entry: a row.
        index: The input that names the entry whose gradient is `at_index` instead of `dense`, or None.
        at_index: The whole gradient at that entry: a scalar.
    """

    operand: str
    dense: Any
    index: Expr | None = None
    at_index: Any = None


@dataclass(frozen=True)
class RowSchedule:
    """The computation of one row.

    Attributes:
        passes: The loops, in order. Scalars may be computed as soon as the reductions below them are known.
        value: The loss of the row.
        conditions: Scalars that are true where the row is rejected, in the order in which they were given.
        gradients: The gradients that the last loop writes.
        is_row: Tells the lowered expressions that are rows from the scalars.
    """

    passes: tuple[RowPass, ...]
    value: Any
    conditions: tuple[Any, ...]
    gradients: tuple[ScheduledGradient, ...]
    is_row: Callable[[Any], bool]

    @property
    def stored(self) -> Expr | None:
        """The exponential that one of the passes stores, or None."""
        return next((row_pass.stores for row_pass in self.passes if row_pass.stores is not None), None)

    def first_sums_over(self, operand: str) -> RowPass | None:
        """Return the first pass of sums that loads a row, or None: the place for a check of its entries."""
        return next((p for p in self.passes if p.kind == "total" and operand in p.reads), None)


def schedule_row(
    value: Any,
    gradients: Mapping[str, RowGradient],
    conditions: Sequence[Any] = (),
    *,
    rows: set[str],
    stores_exponentials: bool = False,
) -> RowSchedule:
    """Schedule the loss of a row and its gradients.

    Args:
        value: The loss of a row, traced.
        gradients: By the name of a row, the gradient by this row.
        conditions: Scalars that are true where the row is rejected.
        rows: The names of the inputs that are rows; all others are scalars of the row.
        stores_exponentials: Whether a pass may store the exponential of each entry.

    Returns:
        The passes and the lowered expressions.

    Raises:
        FormulaError: A word has no schedule: the norm of the largest entry, or a gradient with parts at the entries of
            two different indices.

    Example:
        >>> from piste.formula.row_functions import log_softmax, pick
        >>> x, k = Expr("input", "x"), Expr("input", "k")
        >>> for row_pass in schedule_row(-pick(log_softmax(x), k), {}, rows={"x"}).passes:
        ...     print(row_pass.reductions, row_pass.reads)
        (top(x),) ('x',)
        (total(exp(-(x, each(top(x))))),) ('x',)
    """
    is_row = RowTest(rows)
    lowering = _Lowering(is_row)
    scaled = tuple(lowering.scale(name, gradient) for name, gradient in gradients.items())
    lowered_conditions = tuple(map(lowering, conditions))
    lowered_value = lowering(value)
    results = [*lowered_conditions, lowered_value]
    for gradient in scaled:
        results += [gradient.dense, gradient.at_index]
    dense = [gradient.dense for gradient in scaled]
    passes = _order_passes(results, is_row, dense if stores_exponentials else ())
    return RowSchedule(tuple(passes), lowered_value, lowered_conditions, scaled, is_row)


class _Lowering:
    """Rewrite the words over rows as reductions, elementwise operations and broadcast scalars."""

    def __init__(self, is_row: RowTest) -> None:
        self._is_row = is_row
        self._lowered: dict[Expr, Any] = {}

    def __call__(self, value: Any) -> Any:
        if not isinstance(value, Expr):
            return value
        for node in topological_order(value, stop=self._lowered.__contains__):
            self._lowered[node] = node if node.op == "input" else self._lower(node)
        return self._lowered[value]

    def _lower(self, node: Expr) -> Any:
        op, args = node.op, node.args
        if op == "size":
            return CLASSES
        if op == "log_softmax":
            x, largest, sum_, _ = self._exponentials(args[0])
            return (x - Expr("each", largest)) - Expr("each", Expr("log", sum_))
        if op == "exp" and _is_log_softmax(args[0]):
            return self._softmax(args[0].args[0])
        if op == "exp" and isinstance(args[0], Expr) and args[0].op == "pick" and _is_log_softmax(args[0].args[0]):
            return self.entry(self._softmax(args[0].args[0].args[0]), args[0].args[1])
        if op == "sigmoid":
            return _lower_sigmoid(self(args[0]))
        if op == "norm":
            return _lower_norm(self(args[0]), args[1])
        if op == "pick":
            return self.entry(self(args[0]), args[1])
        if op == "each" and not isinstance(args[0], Expr):
            return args[0]
        return Expr(op, *map(self, args))

    def _softmax(self, x: Any) -> Any:
        _, _, sum_, exponential = self._exponentials(x)
        return exponential * Expr("each", 1.0 / sum_)

    def _exponentials(self, x: Any) -> tuple[Any, Any, Any, Any]:
        """Return a row, its largest entry, the sum of exp(row - largest), and that exponential."""
        x = self(x)
        largest = Expr("top", x)
        exponential = Expr("exp", x - Expr("each", largest))
        return x, largest, Expr("total", exponential), exponential

    def entry(self, value: Any, k: Expr) -> Any:
        """Return the entry of class k of a row; a scalar is returned as it is."""
        found: dict[Expr, Any] = {}

        def is_done(node: Expr) -> bool:
            return node in found or not self._is_row(node)

        for node in topological_order(value, stop=is_done):
            if node.op == "input":
                found[node] = Expr("pick", node, k)
            elif node.op == "each":
                found[node] = node.args[0]
            elif node.op == "index":
                found[node] = k
            else:
                found[node] = Expr(node.op, *(found.get(x, x) if isinstance(x, Expr) else x for x in node.args))
        return found.get(value, value) if isinstance(value, Expr) else value

    def scale(self, operand: str, gradient: RowGradient) -> ScheduledGradient:
        """Return a gradient times `SCALE`, with the parts at one entry added to the dense part there."""
        dense = self(gradient.dense)
        scaled = _times(dense, SCALE)
        if not gradient.at_index:
            return ScheduledGradient(operand, scaled)
        (_, index), *others = gradient.at_index
        if any(other is not index for _, other in others):
            raise FormulaError("a gradient has parts at several single classes")
        at_index = self.entry(dense, index)
        for scalar, _ in gradient.at_index:
            at_index = at_index + self(scalar)
        return ScheduledGradient(operand, scaled, index, at_index * SCALE)


def _is_log_softmax(value: Any) -> bool:
    return isinstance(value, Expr) and value.op == "log_softmax"


def _times(row: Any, scalar: Any) -> Any:
    """Return a row times a scalar; scalars of a product are multiplied first, which takes one product for the row."""
    if isinstance(row, Expr) and row.op == "*":
        for x, y in (row.args, reversed(row.args)):
            if isinstance(y, Expr) and y.op == "each":
                return _times(x, y.args[0] * scalar)
    return row * Expr("each", scalar)


def _lower_sigmoid(x: Any) -> Any:
    """Return a sigmoid of what is never positive as it is: the gradient needs that of -|x|."""
    if is_never_positive(x):
        return Expr("sigmoid", x)
    s: Any = Expr("sigmoid", Expr("neg", Expr("abs", x)))
    return Expr("where", x > 0, 1.0 - s, s)


def _lower_norm(x: Any, p: float) -> Expr:
    if p == 1:
        return Expr("total", Expr("abs", x))
    if p == 2:
        return Expr("sqrt", Expr("total", x * x))
    if not 0 < p < math.inf:
        raise FormulaError("a norm of the largest entry is not summed")
    return Expr("**", Expr("total", Expr("**", Expr("abs", x), p)), 1.0 / p)


def _order_passes(results: Sequence[Any], is_row: RowTest, readers: Sequence[Any]) -> list[RowPass]:
    """Order the reductions below some results in passes; a pass of sums comes after the other ones of its turn.

    A pass stores an exponential only for readers: rows that the last pass computes.
    """
    read = set(_exponentials(readers, is_row))
    known: set[Expr] = set()
    passes: list[RowPass] = []
    stored: Expr | None = None
    while True:
        waiting, awaited = _waiting(results, known)
        if not waiting:
            return passes
        ready = [node for node in waiting if node in awaited] if awaited else waiting
        for node in ready:
            if node.op != "total":
                passes.append(RowPass((node,), _reads([node.args[0]], is_row, stored)))
        sums = [node for node in ready if node.op == "total"]
        if sums:
            summands = [node.args[0] for node in sums]
            exponentials = [x for x in summands if isinstance(x, Expr) and x.op in COSTLY]
            exponentials = exponentials or [x for x in _exponentials(summands, is_row) if x in read]
            stores = exponentials[-1] if readers and stored is None and exponentials else None
            passes.append(RowPass(tuple(sums), _reads(summands, is_row, stored), stores))
            stored = stores if stored is None else stored
        known.update(ready)


def _exponentials(values: Sequence[Any], is_row: RowTest) -> list[Expr]:
    """Return the exponentials and sigmoids of each entry that some rows are computed from."""
    order = topological_order(*values, stop=lambda node: node.op == "each" or not is_row(node))
    return [node for node in order if node.op in COSTLY and is_row(node)]


def _waiting(results: Sequence[Any], known: set[Expr]) -> tuple[list[Expr], set[Expr]]:
    """Return the unknown reductions whose operands are known, and those of them that other reductions need."""
    waiting: list[Expr] = []
    awaited: set[Expr] = set()
    nearest: dict[Expr, set[Expr]] = {}  # the waiting reductions that a node needs
    for node in topological_order(*results, stop=known.__contains__):
        below: set[Expr] = set().union(*(nearest.get(x, set()) for x in node.operands))
        if node.op in REDUCTIONS and below:
            awaited |= below
        elif node.op in REDUCTIONS:
            waiting.append(node)
            below = {node}
        nearest[node] = below
    return waiting, awaited


def _reads(values: Sequence[Any], is_row: RowTest, stored: Expr | None) -> tuple[str, ...]:
    """Return the rows whose entries some rows are computed from, where an exponential is stored."""

    def is_ready(node: Expr) -> bool:
        return node is stored or node.op == "each" or not is_row(node)

    order = topological_order(*values, stop=is_ready)
    return tuple(node.args[0] for node in order if node.op == "input")
