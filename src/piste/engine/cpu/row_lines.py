"""Print the schedule of a row as the lines of a Numba kernel.

Scalars of the row (a sum, a maximum, an entry that is picked) are in double precision. Rows are computed where they
are used and never stored, except for one exponential or sigmoid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...formula.expression import Expr, topological_order
from ..row_schedule import RowPass, RowSchedule
from ..specs import LossKernelSpec, Operand
from . import range_guards
from .loss_lines import BYTES, PARTIALS, SCRATCH, LossLines, ScalarLines, load_expr, store_expr

__all__ = ["RowLines"]

CHUNK = 1024  # entries summed in their own precision before the sum is added in double


class RowLines:
    """The lines for one row.

    Args:
        spec: The kernel's operands and dtypes.
        schedule: The passes over the row, and its results.
        stored_at: The array of the exponentials or sigmoids that a pass stores.
    """

    def __init__(self, spec: LossKernelSpec, schedule: RowSchedule, stored_at: str | None) -> None:
        self.spec, self.schedule, self.stored_at, self.dtype = spec, schedule, stored_at, spec.dtype
        self.lines: list[str] = []
        self.scratch_rows = 0
        self._names: dict[Expr, str] = {}  # of the reductions that are known
        self._stored: Expr | None = None  # the exponential or sigmoid, when it is stored
        self._scalars = ScalarLines("float64", "n", self._known_scalar)
        self._printed = 0  # lines of scalars that were added to `lines`

    def reduce(self) -> None:
        """Add the passes that compute the reductions."""
        for row_pass in self.schedule.passes:
            names = [f"s{len(self._names) + i}" for i in range(len(row_pass.reductions))]
            {"top": self._top, "hinges": self._hinges, "total": self._totals}[row_pass.kind](row_pass, names)
            self._names.update(zip(map(self._scalars.key, row_pass.reductions), names, strict=True))
            if row_pass.stores is not None:
                self._stored = self._scalars.key(row_pass.stores)

    def scalar(self, value: Any) -> str:
        """Return the variable that holds a scalar of the row, after adding the lines that compute it."""
        name = self._scalars.name(value)
        self.lines += self._scalars.lines[self._printed :]
        self._printed = len(self._scalars.lines)
        return name

    def write_gradients(self) -> None:
        """Add the pass that writes the gradients into the rows `g_` plus the name of the operand."""
        gradients = self.schedule.gradients
        body, results = self._body([gradient.dense for gradient in gradients])
        self.lines += ["for c in range(classes):", *(f"    {line}" for line in body)]
        for gradient, result in zip(gradients, results, strict=True):
            self.lines.append(f"    g_{gradient.operand}[c] = {self._as_stored(gradient.operand, result)}")
        for gradient in gradients:
            if gradient.index is not None:
                entry = f"g_{gradient.operand}[{gradient.index.args[0]}_]"
                self.lines.append(f"{entry} = {self._as_stored(gradient.operand, self.scalar(gradient.at_index))}")

    def _known_scalar(self, node: Expr) -> str | None:
        if node.op == "input":
            return f"{node.args[0]}_"
        if node.op == "pick":
            row, index = node.args
            return f"at_{row.args[0]}_{index.args[0]}"
        return self._names.get(self._scalars.key(node))

    def _body(self, results: Sequence[Any]) -> tuple[list[str], list[str]]:
        """Return the lines inside a loop over c, and the names of their results; add their scalars before the loop."""
        scalars: dict[Expr, str] = {}
        loads: dict[str, str] = {}

        def known(node: Expr) -> str | None:
            if node.op == "each":
                return self._broadcast(node.args[0], scalars)
            if not self.schedule.is_row(node):
                return self._broadcast(node, scalars) if _has_input(node) else None
            if node.op == "input":
                name = str(node.args[0])
                loads[name] = f"{name}_ = {self._entry(name, 'c')}"
                return f"{name}_"
            if node.op == "hinge_slopes":
                loads["hinge_slopes"] = "slope_ = hinge_slope[c]"
                return "slope_"
            if node.op == "index":
                loads["index"] = f"c_ = {self.dtype}(c)"
                return "c_"
            if self._stored is not None and node.op == self._stored.op and self._scalars.key(node) is self._stored:
                loads["kept"] = f"kept_ = {self.stored_at}[c]"
                return "kept_"
            return None

        lines = LossLines(self.dtype, "v", known)
        names = [lines.name(result) for result in results]
        return [*loads.values(), *lines.lines], names

    def _broadcast(self, value: Any, scalars: dict[Expr, str]) -> str:
        """Return the variable that holds a scalar in the precision of the entries."""
        key = self._scalars.key(value)
        if key not in scalars:
            name = self.scalar(value)
            scalars[key] = f"h{len(self.lines)}"
            self.lines.append(f"{scalars[key]} = {self.dtype}({name})")
        return scalars[key]

    def _top(self, row_pass: RowPass, names: list[str]) -> None:
        (name,) = names
        body, (result,) = self._body([row_pass.reductions[0].args[0]])
        self.lines += [
            f"{name}_top = float_to_ordered_int({self.dtype}(-math.inf))",
            "for c in range(classes):",
            *(f"    {line}" for line in body),
            f"    o = float_to_ordered_int({result})",
            f"    {name}_top = o if o > {name}_top else {name}_top",
            f"{name} = float64(ordered_int_to_float({name}_top, {self.dtype}(0.0)))",
        ]

    def _hinges(self, row_pass: RowPass, names: list[str]) -> None:
        """Add the loops of each listed class over the others, which also leave the slope of each class."""
        (name,), (x, k) = names, (argument.args[0] for argument in row_pass.reductions[0].args)
        self.scratch_rows = 2
        zero = f"{self.dtype}(0.0)"
        self.lines += [
            f"is_other = column(scratch, {self.dtype}, {PARTIALS})",
            f"hinge_slope = column(scratch + classes * {BYTES[self.dtype]}, {self.dtype}, {SCRATCH})",
            "is_wrong = 0",
            "for c in range(classes):",
            f"    is_other[c], hinge_slope[c] = {self.dtype}(1.0), {zero}",
            f"    is_wrong += 1 if (a_{k}[c] < -1) | (a_{k}[c] >= classes) else 0",
            "if is_wrong != 0:",
            "    faults += 1",
            "    r += 1",
            "    continue",
            "listed = 0",
            f"while listed < classes and a_{k}[listed] >= 0:",
            f"    is_other[a_{k}[listed]] = {zero}",
            "    listed += 1",
            f"{name} = 0.0",
            "for i in range(listed):",
            f"    j = a_{k}[i]",
            f"    bound = {self.dtype}(1.0) - {self._entry(x, 'j')}",
            f"    part, count = {zero}, {zero}",
            "    for c in range(classes):",
            f"        z = bound + {self._entry(x, 'c')}",
            f"        reached = {zero} if z <= {zero} else is_other[c]",  # NaN counts
            f"        part = fast_add(part, {zero} if reached == {zero} else z)",
            "        count = fast_add(count, reached)",
            "        hinge_slope[c] += reached",
            f"    {name} += float64(part)",
            "    hinge_slope[j] -= count",
        ]

    def _totals(self, row_pass: RowPass, names: list[str]) -> None:
        summands = [node.args[0] for node in row_pass.reductions]
        is_stored = row_pass.stores is not None
        body, results = self._body([*summands, row_pass.stores] if is_stored else summands)
        stores = [f"{self.stored_at}[c] = {results.pop()}"] if is_stored else []
        for bound in self.spec.bounds:
            operand = self.spec.operands[bound.operand].name
            if self.schedule.first_sums_over(operand) is row_pass:
                self.lines.append(range_guards.start(bound, self.dtype))
                body += range_guards.update(bound, f"{operand}_", self.dtype)
        self.lines += [
            *(f"{name} = 0.0" for name in names),
            "first = 0",
            "while first < classes:",
            f"    stop_c = first + {CHUNK} if first + {CHUNK} < classes else classes",
            *(f"    part_{name} = {self.dtype}(0.0)" for name in names),
            "    for c in range(first, stop_c):",
            *(f"        {line}" for line in (*body, *stores)),
            *(f"        part_{n} = fast_add(part_{n}, {self.dtype}({r}))" for n, r in zip(names, results, strict=True)),
            *(f"    {name} += float64(part_{name})" for name in names),
            "    first = stop_c",
        ]

    def _entry(self, operand: str, index: str) -> str:
        return load_expr(self._column(operand), index, self.dtype)

    def _as_stored(self, operand: str, value: str) -> str:
        return store_expr(self._column(operand).storage, value)

    def _column(self, operand: str) -> Operand:
        return next(c for c in self.spec.operands if c.name == operand)


def _has_input(value: Expr) -> bool:
    return any(node.op == "input" for node in topological_order(value))
