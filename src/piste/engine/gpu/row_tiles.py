"""Lines of a kernel for a tile of rows: sums over the classes, and values of every class, from the graph of a formula.

A number of a row (a sum, a maximum, an entry that is picked) is a vector with an entry for each row of the tile. A row
of numbers is a tile. Where a whole row fits into a tile, its operands are read once; longer rows are read in a loop for
each wave of sums that other sums need, and the maximum and the sum of exponentials of a softmax share one loop. A tile
of a long row has runs of classes that follow each other: a thread adds up the entries that it has of all runs, and sums
over the threads of a block are taken once, after the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ...formula.expression import Expr, FormulaError, topological_order
from ..row_schedule import CLASSES
from .dialect import triton
from .loss_lines import LossLines

__all__ = ["HingeLines", "RowTiles", "class_loop", "distributed", "with_hinge_sums"]

_SUMS = ("top", "total")
# Where maxima start; a row of -inf alone keeps it, which leaves NaN as the loss.
_LOWEST = {"float32": -3.0e38, "float64": -1.0e308}


class HingeLines(NamedTuple):
    """The lines that compute `hinge_sums_x_k` and `hinge_slopes_x_k`, for operands x and k.

    Attributes:
        of_tile: the sums, and the slopes as far as the tile determines them.
        of_row: the rest of the slopes, which other tiles determine, or None.
    """

    of_tile: str
    of_row: str | None


class RowTiles:
    """The code for a tile of rows, as it grows.

    Args:
        dtype: the dtype of the computation.
        is_row: tells rows from numbers.
        load: returns the line that reads a tile of an operand, by the operand's name.
        hinges: returns the lines that compute the hinges of a row with a list, by the names of both operands.
        shape: the rows of a tile, and its classes.
        is_whole: whether a row fits into a tile.
    """

    def __init__(
        self,
        dtype: str,
        is_row: Callable[[Any], bool],
        load: Callable[[str], str],
        hinges: Callable[[str, str], HingeLines],
        shape: tuple[int, int],
        is_whole: bool,
    ) -> None:
        self.lines: list[str] = []
        self._dtype, self._is_row, self._load, self._hinges = dtype, is_row, load, hinges
        self._shape, self._is_whole = shape, is_whole
        self._sums: dict[Expr, str] = {}
        self._numbers = LossLines(dtype, "n", self._number)
        self._flushed = self._emitters = 0
        self._is_at_end = False
        self._tile = self._emitter()
        self._loaded: dict[str, str] = {}

    def number(self, value: Any) -> str:
        """Return the variable of a number whose sums are known."""
        name = self._numbers.name(value)
        self.lines += self._numbers.lines[self._flushed :]
        self._flushed = len(self._numbers.lines)
        return name

    def loop(self, values: Sequence[Any], use: Callable[[list[str]], list[str]]) -> None:
        """Compute rows for all classes, and use them.

        Args:
            values: the rows.
            use: returns the lines that follow, given the variables of the rows.
        """
        if not self._is_whole:
            self.lines += self.fresh_loop(values, use, is_back=self._is_at_end)
            self._is_at_end = not self._is_at_end
            return
        known, before = len(self._tile.lines), set(self._loaded)
        names = [self._tile.name(value) for value in values]
        self.lines += [line for name, line in self._loaded.items() if name not in before]
        self.lines += [*self._tile.lines[known:], *use(names)]

    def fresh_loop(
        self, values: Sequence[Any], use: Callable[[list[str]], list[str]], *, is_back: bool = False
    ) -> list[str]:
        """Return lines for all classes that read their operands again; the numbers that they need are added now."""
        kept = self._tile, self._loaded
        self._tile, self._loaded = self._emitter(), {}
        names = [self._tile.name(value) for value in values]
        body = [*self._loaded.values(), *self._tile.lines, *use(names)]
        self._tile, self._loaded = kept
        if self._is_whole:
            return body
        return class_loop(f"start_{self._emitters}", self._shape, body, is_back=is_back)

    def sum_up(self, values: Sequence[Any]) -> None:
        """Make all sums known that some values are made of."""
        while waiting := self._waiting(values):
            chosen = _in_one_loop(waiting)
            tops = [s for s in chosen if s.op == "top"]
            if self._is_whole and tops:
                chosen = tops
            pairs = {} if self._is_whole else _exponential_sums(values, tops)
            self._sum(chosen, pairs)

    # --- sums ---------------------------------------------------------------------------------------------------------

    def _sum(self, sums: Sequence[Expr], pairs: dict[Expr, Expr]) -> None:
        names = {s: f"s{len(self._sums) + i}" for i, s in enumerate([*sums, *pairs.values()])}
        if not self._is_whole:
            for s, name in names.items():
                start = _LOWEST[self._dtype] if s.op == "top" else 0.0
                self.lines.append(f"all_{name} = tl.full((1, {self._shape[1]}), {start}, tl.{self._dtype})")

        def use(variables: list[str]) -> list[str]:
            lines: list[str] = []
            for s, variable in zip(sums, variables, strict=True):
                pair = names[pairs[s]] if s in pairs else None
                lines += self._used(s, names[s], variable, pair)
            return lines

        self.loop([s.args[0] for s in sums], use)
        if not self._is_whole:
            for s, name in names.items():
                if s.op == "top":
                    self.lines.append(f"{name} = tl.max(all_{name}, 1)")
                    if s in pairs:
                        pair = f"all_{names[pairs[s]]}"
                        self.lines.append(f"{pair} = {pair} * {self._exp(f'all_{name} - {name}[:, None]')}")
            self.lines += [f"{name} = tl.sum(all_{name}, 1)" for s, name in names.items() if s.op == "total"]
        self._sums |= {self._numbers.key(s): name for s, name in names.items()}

    def _used(self, s: Expr, name: str, variable: str, pair: str | None) -> list[str]:
        if s.op == "total":
            masked = f"tl.where(inside, {variable}, 0.0)"
            if self._is_whole:
                return [f"{name} = tl.sum({masked}, 1)"]
            return [f"all_{name} += tl.sum({masked}, 0, keep_dims=True)"]
        lines = [f"x_{name} = tl.where(inside, {variable}, float('-inf'))"]
        if self._is_whole:
            return [*lines, f"{name} = tl.max(x_{name}, 1)"]
        if pair is not None:
            # Each lane has a maximum, and a sum that a higher maximum scales.
            lines += [
                f"top_{name} = tl.maximum(all_{name}, tl.max(x_{name}, 0, keep_dims=True))",
                f"e_{name} = tl.sum({self._exp(f'x_{name} - top_{name}')}, 0, keep_dims=True)",
                f"all_{pair} = all_{pair} * {self._exp(f'all_{name} - top_{name}')} + e_{name}",
                f"all_{name} = top_{name}",
            ]
            return lines
        return [*lines, f"all_{name} = tl.maximum(all_{name}, tl.max(x_{name}, 0, keep_dims=True))"]

    def _exp(self, x: str) -> str:
        return str(triton(self._dtype)["exp"]).format(x)

    def _waiting(self, values: Sequence[Any]) -> dict[Expr, bool]:
        """Return the unknown sums whose operands are known, and whether other sums need them."""
        nearest: dict[Expr, frozenset[Expr]] = {}
        waiting: dict[Expr, bool] = {}

        def is_known(node: Expr) -> bool:
            return node.op in _SUMS and self._numbers.key(node) in self._sums

        for node in topological_order(*values, stop=is_known):
            below = frozenset().union(*(nearest.get(x, frozenset()) for x in node.operands))
            if node.op in _SUMS:
                for s in below:
                    waiting[s] = True
                if not below:
                    waiting.setdefault(node, False)
                    below = frozenset((node,))
            nearest[node] = below
        return waiting

    # --- values -------------------------------------------------------------------------------------------------------

    def _number(self, symbol: Expr) -> str | None:
        if symbol.op == "input":
            return f"{symbol.args[0]}_"
        if symbol.op == "pick":
            return "at_" + "_".join(str(x.args[0]) for x in symbol.operands)
        return self._sums.get(self._numbers.key(symbol))

    def _emitter(self) -> LossLines:
        self._emitters += 1
        return LossLines(self._dtype, f"v{self._emitters}_", self._given)

    def _given(self, symbol: Expr) -> str | None:
        if symbol.op == "each" or not self._is_row(symbol):
            if symbol.op in ("each", "input") or _inputs(symbol):
                number = self.number(symbol.args[0] if symbol.op == "each" else symbol)
                return f"({number} + no_number)[:, None]"
            return None
        if symbol.op == "input":
            name = str(symbol.args[0])
            self._loaded.setdefault(name, self._load(name))
            return f"{name}_row"
        if symbol.op == "index":
            return f"c.to(tl.{self._dtype})"
        if symbol.op in ("hinge_sums", "hinge_slopes"):
            x, k = (str(operand.args[0]) for operand in symbol.operands)
            self._loaded.setdefault(x, self._load(x))
            lines = self._hinges(x, k)
            self._loaded.setdefault(f"hinges of {x} and {k}", lines.of_tile)
            if symbol.op == "hinge_slopes" and lines.of_row is not None:
                self._loaded.setdefault(f"slopes of {x} and {k}", lines.of_row)
            return f"{symbol.op}_{x}_{k}"
        return None


def class_loop(start: str, shape: tuple[int, int], body: Sequence[str], *, is_back: bool) -> list[str]:
    """Return a loop over the classes of long rows: whole tiles, without a mask, and the rest of the row.

    Args:
        start: a name for the first class of a tile.
        shape: the runs of a tile, and the classes of a run.
        body: the lines for the classes `c`, of which `inside` tells those that the row has.
        is_back: whether to go from the last class to the first: what a loop has read last is still in the cache.
    """
    runs, run = shape
    size = runs * run
    lanes = f"tl.arange(0, {runs})[:, None] * {run} + lane[None, :]"
    first = f"(classes // {size} - 1) * {size} - {start}" if is_back else start
    whole = [
        f"for {start} in range(0, classes // {size} * {size}, {size}):",
        *(f"    {line}" for line in (f"c = {first} + {lanes}", f"inside = tl.full({shape}, 1, tl.int1)", *body)),
    ]
    rest = [
        f"for {start} in range(classes // {size} * {size}, classes, {size}):",
        *(f"    {line}" for line in (f"c = {start} + {lanes}", "inside = c < classes", *body)),
    ]
    return [*rest, *whole] if is_back else [*whole, *rest]


def _inputs(value: Expr) -> frozenset[str]:
    return frozenset(str(node.args[0]) for node in topological_order(value) if node.op == "input")


def _in_one_loop(waiting: dict[Expr, bool]) -> list[Expr]:
    """Choose the sums that other sums need, and all that read the same operands; or all, where none is needed."""
    if not any(waiting.values()):
        return list(waiting)
    loads = frozenset().union(*(_inputs(s) for s, is_awaited in waiting.items() if is_awaited))
    chosen = {s for s, is_awaited in waiting.items() if is_awaited}
    while more := {s for s in waiting if s not in chosen and not loads.isdisjoint(_inputs(s))}:
        chosen |= more
        loads = loads.union(*map(_inputs, more))
    return [s for s in waiting if s in chosen]


def _exponential_sums(values: Sequence[Any], tops: Sequence[Expr]) -> dict[Expr, Expr]:
    """Return the sum of exp(x - each(top(x))) for each of some maxima that has one."""
    found: dict[Expr, Expr] = {}
    for node in topological_order(*values):
        match node:
            case Expr(op="total", args=(Expr(op="exp", args=(Expr(op="-", args=(x, Expr(op="each", args=(m,)))),)),)):
                if m.op == "top" and m.args[0] is x and any(m is top for top in tops):
                    found[m] = node
    return found


def distributed(value: Any) -> Any:
    """Rewrite sums so that they need no other sum: total(a - each(b)) is total(a) - size b, also times a row."""
    found: dict[Expr, Any] = {}
    for node in topological_order(value):
        args = [found[x] if isinstance(x, Expr) else x for x in node.args]
        found[node] = _total(args[0]) if node.op == "total" else Expr(node.op, *args)
    return found[value] if isinstance(value, Expr) else value


def _total(x: Any, factor: Any = None) -> Any:
    """Return the sum of x, or of its product with a row."""
    match x:
        case Expr(args=args) if len(args) == 2 and not all(isinstance(arg, Expr) for arg in args):
            pass
        case Expr(op="each", args=(b,)):
            return b * (CLASSES if factor is None else Expr("total", factor))
        case Expr(op="+" | "-" as op, args=(a, b)) if _has_each(a) or _has_each(b):
            return Expr(op, _total(a, factor), _total(b, factor))
        case Expr(op="neg", args=(a,)) if factor is None:
            return -_total(a)
        case Expr(op="*", args=(a, b)) if factor is None and _has_each(b):
            return _total(b, a)
    return Expr("total", x if factor is None else factor * x)


def _has_each(x: Any) -> bool:
    """Return whether a value is a sum with a term that is the same for all classes."""
    return isinstance(x, Expr) and (x.op == "each" or (x.op in ("+", "-") and any(map(_has_each, x.args))))


def with_hinge_sums(value: Any) -> Any:
    """Replace the hinges of a row by the total of the hinges of each class.

    Raises:
        FormulaError: The hinges are those of a computed row.
    """
    found: dict[Expr, Any] = {}
    for node in topological_order(value):
        args = [found[x] if isinstance(x, Expr) else x for x in node.args]
        if node.op in ("hinges", "hinge_slopes") and any(x.op != "input" for x in node.operands):
            raise FormulaError("the word `hinges` takes operands of the loss alone")
        found[node] = Expr("total", Expr("hinge_sums", *args)) if node.op == "hinges" else Expr(node.op, *args)
    return found[value] if isinstance(value, Expr) else value
