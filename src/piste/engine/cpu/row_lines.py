"""The lines of a kernel for one row of classes, from the graph of a formula and of its gradients.

What belongs to the whole row (a sum, a maximum, an entry that is picked) is a number in double precision. A row of
numbers is never stored but computed where it is used, with one exception: exponentials that the gradient needs again
are kept. So a row is read from memory once, and a few times more from the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...formula.differentiate import RowTest, Slope
from ...formula.expression import Expr, FormulaError, NamedConstant, topological_order
from .loss_form import BYTES, PARTIALS, SCRATCH, Column, Form, LossLines, loaded, stored

__all__ = ["RowLines"]

_SUMS = ("top", "total", "hinges")
CHUNK = 1024  # entries whose sum is kept in the precision of the entries


class _Numbers(LossLines):
    """Lines of double precision, for what belongs to a row as a whole."""

    def name(self, value: Any) -> str:
        return f"d_{value.name}" if isinstance(value, NamedConstant) else super().name(value)


class RowLines:
    """The code for one row, as it grows."""

    def __init__(self, form: Form, rows: set[str], kept: str | None) -> None:
        self.form, self.dtype, self.is_row, self.kept_at = form, form.dtype, RowTest(rows), kept
        self.lines: list[str] = []
        self.sums: dict[Any, str] = {}  # what is known of the row, by how it is written
        self.kept: Any = None
        self.lowered: dict[Expr, Any] = {}
        self.numbers = _Numbers("float64", "n", self._number)
        self._count = 0
        self.scratch_rows = 0
        self.seen: set[str] = set()  # the columns that were held against their bounds

    # --- what a word over rows comes to ---------------------------------------------------------------------------

    def lower(self, value: Any) -> Any:
        """Rewrite as elementwise operations, row reductions (`total`, `top`) and broadcast scalars (`each`)."""
        if not isinstance(value, Expr):
            return value
        for node in topological_order(value, stop=self.lowered.__contains__):
            self.lowered[node] = node if node.op == "input" else self._lower(node)
        return self.lowered[value]

    def _lower(self, value: Expr) -> Any:
        op, args = value.op, value.args
        if op == "size":
            return Expr("input", "classes")
        if op == "log_softmax":
            x, m, s, _ = self._exponentials(args[0])
            return (x - Expr("each", m)) - Expr("each", Expr("log", s))
        if op == "exp" and isinstance(args[0], Expr) and args[0].op == "log_softmax":
            _, _, s, e = self._exponentials(args[0].args[0])
            return e * Expr("each", 1.0 / s)
        if op == "norm":
            x, p = self.lower(args[0]), args[1]
            if p == 1:
                return Expr("total", Expr("abs", x))
            if p == 2:
                return Expr("sqrt", Expr("total", x * x))
            if not 0 < p < float("inf"):
                raise FormulaError("a norm of the largest entry is not summed")
            return Expr("**", Expr("total", Expr("**", Expr("abs", x), p)), 1.0 / p)
        if op == "pick":
            return self._at(self.lower(args[0]), args[1])
        if op == "each" and not isinstance(args[0], Expr):
            return args[0]
        return Expr(op, *map(self.lower, args))

    def _exponentials(self, x: Any) -> tuple[Any, Any, Any, Any]:
        x = self.lower(x)
        m = Expr("top", x)
        e = Expr("exp", x - Expr("each", m))
        return x, m, Expr("total", e), e

    def _at(self, value: Any, k: Any) -> Any:
        """Return the entry of class k of a row; a number is returned as it is."""
        found: dict[Expr, Any] = {}

        def end(node: Expr) -> bool:
            return node in found or not self.is_row(node)

        for node in topological_order(value, stop=end):
            if node.op == "input":
                found[node] = Expr("input", f"{node.args[0]}@{k.args[0]}")
            elif node.op == "each":
                found[node] = node.args[0]
            elif node.op == "index":
                found[node] = k
            else:
                found[node] = Expr(node.op, *(found.get(x, x) if isinstance(x, Expr) else x for x in node.args))
        return found.get(value, value) if isinstance(value, Expr) else value

    # --- numbers ----------------------------------------------------------------------------------------------------

    def number(self, value: Any) -> str:
        """The variable that holds a number of the row, whose sums are known."""
        name = self.numbers.name(self.lower(value))
        self._flush()
        return name

    def _number(self, symbol: Expr) -> str | None:
        if symbol.op == "input":
            name, _, index = str(symbol.args[0]).partition("@")
            return f"at_{name}_{index}" if index else f"{name}_"
        return self.sums.get(self.numbers.key(symbol))

    def _flush(self) -> None:
        self.lines += self.numbers.lines[self._count :]
        self._count = len(self.numbers.lines)

    def sum_up(self, values: Sequence[Any]) -> None:
        """Loops over the classes until all sums that these values are made of are known.

        A sum is left to the last loop unless another one waits for it: there are fewer loops then.
        """
        while True:
            waiting: dict[Expr, Expr] = {}
            awaited: set[Expr] = set()
            self._collect(values, waiting, awaited)
            if not waiting:
                return
            if awaited:
                waiting = {key: symbol for key, symbol in waiting.items() if key in awaited}
            for symbol in waiting.values():
                if symbol.op != "total":
                    (self._top if symbol.op == "top" else self._hinges)(symbol)
            self._totals([s for s in waiting.values() if s.op == "total"])

    def _collect(self, values: Sequence[Any], waiting: dict[Expr, Expr], awaited: set[Expr]) -> None:
        """Collect the unknown sums whose operands are known, by key, and those of them that other sums need."""
        nearest: dict[Expr, set[Expr]] = {}  # the waiting sums that a node needs

        def is_known(node: Expr) -> bool:
            return node.op in _SUMS and self.numbers.key(node) in self.sums

        for node in topological_order(*values, stop=is_known):
            below: set[Expr] = set().union(*(nearest.get(x, set()) for x in node.operands))
            if node.op in _SUMS and below:
                awaited |= below
            elif node.op in _SUMS:
                key = self.numbers.key(node)
                waiting[key] = node
                below = {key}
            nearest[node] = below

    # --- loops ------------------------------------------------------------------------------------------------------

    def _loop(self, results: Sequence[Any]) -> tuple[list[str], list[str]]:
        """Lines inside a loop over c, and the names of what they compute; numbers are made ready before it."""
        hoisted: dict[Any, str] = {}
        loads: dict[str, str] = {}

        def given(symbol: Expr) -> str | None:
            if symbol.op == "each" or not self.is_row(symbol):
                inner = symbol.args[0] if symbol.op == "each" else symbol
                if symbol.op == "input" or symbol.op == "each" or _has_input(symbol):
                    return self._hoist(inner, hoisted)
                return None
            if symbol.op == "input":
                name = str(symbol.args[0])
                loads[name] = f"{name}_ = {self._load(name)}"
                return f"{name}_"
            if symbol.op == "hinge_slopes":
                loads["hinge_slopes"] = "slope_ = hinge_slope[c]"
                return "slope_"
            if symbol.op == "index":
                loads["index"] = f"c_ = {self.dtype}(c)"
                return "c_"
            if self.kept is not None and symbol.op == "exp" and self.numbers.key(symbol) is self.kept:
                loads["kept"] = f"kept_ = {self.kept_at}[c]"
                return "kept_"
            return None

        lines = LossLines(self.dtype, "v", given)
        names = [lines.name(result) for result in results]
        return [*loads.values(), *lines.lines], names

    def _hoist(self, value: Any, hoisted: dict[Any, str]) -> str:
        key = self.numbers.key(value)
        if key not in hoisted:
            number = self.numbers.name(value)
            self._flush()
            hoisted[key] = f"h{len(self.lines)}"
            self.lines.append(f"{hoisted[key]} = {self.dtype}({number})")
        return hoisted[key]

    def _load(self, name: str) -> str:
        return loaded(self._column(name), "c", self.dtype)

    def _top(self, symbol: Expr) -> None:
        name = f"s{len(self.sums)}"
        body, (result,) = self._loop([symbol.args[0]])
        self.lines += [
            *(f"{name}_top = float_to_ordered_int({self.dtype}(-math.inf))",),
            "for c in range(classes):",
            *(f"    {line}" for line in body),
            f"    o = float_to_ordered_int({result})",
            f"    {name}_top = o if o > {name}_top else {name}_top",
            f"{name} = float64(ordered_int_to_float({name}_top, {self.dtype}(0.0)))",
        ]
        self.sums[self.numbers.key(symbol)] = name

    def _hinges(self, symbol: Expr) -> None:
        """Each listed class against those that are not; what comes of it for each class, for the gradient."""
        x, k = (argument.args[0] for argument in symbol.args)
        name = f"s{len(self.sums)}"
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
            f"    bound = {self.dtype}(1.0) - {loaded(self._column(x), 'j', self.dtype)}",
            f"    part, count = {zero}, {zero}",
            "    for c in range(classes):",
            f"        z = bound + {self._load(x)}",
            f"        reached = {zero} if z <= {zero} else is_other[c]",  # NaN counts
            f"        part = fast_add(part, {zero} if reached == {zero} else z)",
            "        count = fast_add(count, reached)",
            "        hinge_slope[c] += reached",
            f"    {name} += float64(part)",
            "    hinge_slope[j] -= count",
        ]
        self.sums[self.numbers.key(symbol)] = name

    def _totals(self, symbols: Sequence[Expr]) -> None:
        if not symbols:
            return
        names = [f"s{len(self.sums) + i}" for i in range(len(symbols))]
        body, results = self._loop([s.args[0] for s in symbols])
        keeps = []
        if self.kept_at is not None and self.kept is None:
            for symbol, result in zip(symbols, results, strict=True):
                inner = symbol.args[0]
                if inner.op == "exp":
                    keeps = [f"{self.kept_at}[c] = {result}"]
                    kept = self.numbers.key(inner)
        for bound in self.form.bounds:
            name = f"{self.form.given[bound.column].name}_"
            if name not in self.seen and any(line.startswith(f"{name} = ") for line in body):
                self.seen.add(name)
                self.lines.append(bound.first(self.dtype))
                body += bound.each(name, self.dtype)
        self.lines += [
            *(f"{name} = 0.0" for name in names),
            "first = 0",
            "while first < classes:",
            f"    stop_c = first + {CHUNK} if first + {CHUNK} < classes else classes",
            *(f"    part_{name} = {self.dtype}(0.0)" for name in names),
            "    for c in range(first, stop_c):",
            *(f"        {line}" for line in (*body, *keeps)),
            *(f"        part_{n} = fast_add(part_{n}, {self.dtype}({r}))" for n, r in zip(names, results, strict=True)),
            *(f"    {name} += float64(part_{name})" for name in names),
            "    first = stop_c",
        ]
        for symbol, name in zip(symbols, names, strict=True):
            self.sums[self.numbers.key(symbol)] = name
        if keeps:
            self.kept = kept

    # --- gradients --------------------------------------------------------------------------------------------------

    def scaled(self, slope: Slope) -> tuple[Any, tuple[str, Any] | None]:
        """A gradient times `scale`: at every class, and the whole number at the one class that has a part besides."""
        scale = Expr("input", "scale")
        dense = self.lower(slope.dense)
        if not slope.single:
            return dense * Expr("each", scale), None
        places = {k.args[0] for _, k in slope.single}
        if len(places) > 1:
            raise FormulaError("a gradient has parts at several single classes")
        value = self._at(dense, slope.single[0][1])
        for number, _ in slope.single:
            value = value + self.lower(number)
        return dense * Expr("each", scale), (places.pop(), value * scale)

    def write(self, slopes: Sequence[tuple[str, Any, tuple[str, Any] | None]]) -> None:
        """The gradients into the rows g_name."""
        singles = [(name, *single) for name, _, single in slopes if single is not None]
        body, results = self._loop([dense for _, dense, _ in slopes])
        self.lines += ["for c in range(classes):", *(f"    {line}" for line in body)]
        for (name, *_), result in zip(slopes, results, strict=True):
            self.lines.append(f"    g_{name}[c] = {stored(self._column(name).storage, result)}")
        for name, place, value in singles:
            number = self.number(value)
            self.lines.append(f"g_{name}[{place}_] = {stored(self._column(name).storage, number)}")

    def _column(self, name: str) -> Column:
        return next(c for c in self.form.given if c.name == name)


def _has_input(value: Expr) -> bool:
    return any(node.op == "input" for node in topological_order(value))
