"""Print the schedule of a row as the lines of a Numba kernel that computes a tile of rows at a time.

Vector lanes run over the rows of a tile, so rows of few classes vectorise as well as long ones. The entries of the tile
lie in scratch memory, the rows of a class side by side; a scalar of each row is a column of `lane`. All is computed in
the precision of the entries. Loops over lanes have a constant number of turns: places behind the last row are computed
too, and left out of sums and results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ...formula.expression import Expr, FormulaError, topological_order
from ..row_schedule import CLASSES, SCALE, RowPass, RowSchedule
from ..specs import LossKernelSpec
from .loss_lines import LossLines

__all__ = ["LANES", "TileLines"]

LANES = 64  # rows of a tile
OVER_LANES = f"for j in range({LANES}):"


class TileLines:
    """The lines for one tile of rows.

    Args:
        spec: The kernel's operands and dtypes.
        schedule: The passes over a row, and its results.
        stored_at: The array of the exponentials or sigmoids that a pass stores.

    Attributes:
        lines: The lines so far.
        columns: The number of columns of `lane`.
    """

    def __init__(self, spec: LossKernelSpec, schedule: RowSchedule, stored_at: str) -> None:
        self.lines: list[str] = []
        self.columns = 0
        self._dtype, self._schedule, self._stored_at = spec.dtype, schedule, stored_at
        self._shared = {c.name for c in spec.operands if c.kind == "shared"}
        self._keys = LossLines(spec.dtype, "", lambda _: None)
        self._known: dict[Expr, int] = {}  # the columns of scalars, by their common form
        self._waiting: dict[Expr, tuple[Expr, int]] = {}  # scalars that the next loop over lanes computes
        self._stored: Expr | None = None  # the exponential or sigmoid, when it is stored

    def add_column(self, value: Expr | None = None) -> int:
        """Return a new column of `lane`, for a scalar that is loaded: an operand, or an entry that is picked."""
        if value is not None:
            self._known[self._keys.key(value)] = self.columns
        self.columns += 1
        return self.columns - 1

    def reduce(self) -> None:
        """Add the passes that compute the reductions."""
        for row_pass in self._schedule.passes:
            self._reduce(row_pass)

    def rows(self, values: Sequence[Any], use: Callable[[list[str]], list[str]]) -> list[str]:
        """Return a loop over classes and lanes that computes rows; the scalars that it reads wait.

        Args:
            values: The rows.
            use: Returns the lines that follow, given the variables of the rows.
        """
        of_class = [f"at = c * {LANES}"]
        loads: dict[str, str] = {}

        def known(node: Expr) -> str | None:
            if node.op == "each":
                return self.wait_for(node.args[0])
            if not self._schedule.is_row(node):
                return self.wait_for(node) if _has_input(node) else None
            if node.op == "input":
                name = str(node.args[0])
                if name in self._shared:
                    of_class.append(f"{name}_ = {self._dtype}(a_{name}[c])")
                else:
                    loads[name] = f"{name}_ = t_{name}[at + j]"
                return f"{name}_"
            if node.op == "index":
                of_class.append(f"c_ = {self._dtype}(c)")
                return "c_"
            if self._stored is not None and node.op == self._stored.op and self._keys.key(node) is self._stored:
                loads["kept"] = f"kept_ = {self._stored_at}[at + j]"
                return "kept_"
            return None

        lines = LossLines(self._dtype, "v", known)
        names = [lines.name(value) for value in values]
        body = [*loads.values(), *lines.lines, *use(names)]
        return [
            "for c in range(classes):",
            *(f"    {line}" for line in (*of_class, OVER_LANES)),
            *(f"        {line}" for line in body),
        ]

    def wait_for(self, value: Any) -> str:
        """Return the place of a scalar, which the next loop over lanes computes if it is unknown."""
        if not isinstance(value, Expr):
            return self._keys.name(value)
        place = self._place(value)
        if place is not None:
            return place
        column = self._waiting.setdefault(self._keys.key(value), (value, self.columns))[1]
        self.columns = max(self.columns, column + 1)
        return _lane(column)

    def add_scalars(self, use: Callable[[Callable[[Any], str]], list[str]] = lambda name: []) -> None:
        """Add a loop over lanes that computes the scalars that wait.

        Args:
            use: Returns the lines that follow, given a function that names the variable of a scalar.
        """
        lines = LossLines(self._dtype, "n", self._place)
        body = [f"{_lane(column)} = {lines.name(value)}" for value, column in self._waiting.values()]
        body += use(lines.name)
        self._known |= {key: column for key, (_, column) in self._waiting.items()}
        self._waiting.clear()
        if body:
            self.lines += [OVER_LANES, *(f"    {line}" for line in (*lines.lines, *body))]

    def _reduce(self, row_pass: RowPass) -> None:
        columns = [self.add_column() for _ in row_pass.reductions]
        sums = [_lane(column) for column in columns]
        is_top, stored = row_pass.kind == "top", row_pass.stores

        def use(names: list[str]) -> list[str]:
            kept = [] if stored is None else [f"{self._stored_at}[at + j] = {names.pop()}"]
            if is_top:
                return [f"{s} = {x} if {x} > {s} else {s}" for s, x in zip(sums, names, strict=True)]
            return [*kept, *(f"{s} = {s} + {self._dtype}({x})" for s, x in zip(sums, names, strict=True))]

        loop = self.rows([*(node.args[0] for node in row_pass.reductions), *([] if stored is None else [stored])], use)
        self.add_scalars()
        start = f"{self._dtype}({'-math.inf' if is_top else '0.0'})"
        self.lines += [OVER_LANES, *(f"    {s} = {start}" for s in sums), *loop]
        self._known |= zip(map(self._keys.key, row_pass.reductions), columns, strict=True)
        if stored is not None:
            self._stored = self._keys.key(stored)

    def _place(self, node: Expr) -> str | None:
        if node is SCALE or node is CLASSES:
            return f"{node.args[0]}_"
        column = self._known.get(self._keys.key(node))
        if column is None and node.op == "input":  # a row, in a word that makes a scalar of it
            raise FormulaError(f"no kernel can be made of the word `{node.op}`")
        return None if column is None else _lane(column)


def _lane(column: int) -> str:
    return f"lane[{column * LANES} + j]"


def _has_input(value: Expr) -> bool:
    return any(node.op == "input" for node in topological_order(value))
