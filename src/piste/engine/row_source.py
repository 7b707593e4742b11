"""From a formula over rows to a kernel: all classes of a sample lie side by side, and a loop runs over them.

What belongs to the whole row (a sum, a maximum, an entry that is picked) is a number in double precision. A row of
numbers is never stored but computed where it is used, with one exception: exponentials that the gradient needs again
are kept. So a row is read from memory once, and a few times more from the cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..formula import FormulaError, Symbol, trace
from ..mathematics import Letter, is_number
from .loss_form import (
    BLOCKS,
    BYTES,
    CLASSES,
    COLUMNS,
    DIVISOR,
    IGNORED,
    NUMBERS,
    OUT,
    PARTIALS,
    PER_BLOCK,
    ROWS,
    SCALE,
    SCRATCH,
    TICKETS,
    Column,
    Form,
    LossLines,
    finish_lines,
    loaded,
    options_lines,
    pointed,
    stored,
)
from .slope import Slope, gradients, is_row

__all__ = ["formulas", "source"]

CHUNK = 256  # entries whose sum is kept in the precision of the entries


def formulas(form: Form) -> tuple[Symbol, list[Slope], list[Symbol], set[str]]:
    """The loss of a row, its gradients, the conditions that refuse it, and which letters are rows."""
    letters = [None if c is None else Symbol("input", c.name) for c in form.columns]
    rows = {c.name for c in form.columns if c is not None and c.kind in ("row", "shared", "labels")}
    options = {k: Letter(k, v) if is_number(v) else v for k, v in form.options}
    value = trace(form.formula, *letters, **options)
    by = [x for x, is_wanted in zip(letters, form.wanted, strict=True) if is_wanted and x is not None]
    slopes = gradients(value, by, rows) if by else []
    faults = [trace(fault, *letters) for fault in form.faults]
    return value, slopes, faults, rows


class _Numbers(LossLines):
    """Lines of double precision, for what belongs to a row as a whole."""

    def name(self, value: Any) -> str:
        return f"d_{value.name}" if isinstance(value, Letter) else super().name(value)


class _Row:
    """The code for one row, as it grows."""

    def __init__(self, form: Form, rows: set[str], kept: str | None) -> None:
        self.form, self.dtype, self.rows, self.kept_at = form, form.dtype, rows, kept
        self.lines: list[str] = []
        self.sums: dict[Any, str] = {}  # what is known of the row, by how it is written
        self.kept: Any = None
        self.lowered: dict[int, tuple[Any, Any]] = {}
        self.numbers = _Numbers("float64", "n", self._number)
        self._count = 0
        self.scratch_rows = 0

    # --- what a word over rows comes to ---------------------------------------------------------------------------

    def lower(self, value: Any) -> Any:
        """The same in elementwise words, sums (`total`), the largest (`top`) and numbers beside rows (`each`)."""
        if not isinstance(value, Symbol) or value.op == "input":
            return value
        if id(value) not in self.lowered:
            self.lowered[id(value)] = value, self._lower(value)
        return self.lowered[id(value)][1]

    def _lower(self, value: Symbol) -> Any:
        op, args = value.op, value.args
        if op == "size":
            return Symbol("input", "classes")
        if op == "log_softmax":
            x, m, s, _ = self._exponentials(args[0])
            return (x - Symbol("each", m)) - Symbol("each", Symbol("log", s))
        if op == "exp" and isinstance(args[0], Symbol) and args[0].op == "log_softmax":
            _, _, s, e = self._exponentials(args[0].args[0])
            return e * Symbol("each", 1.0 / s)
        if op == "norm":
            x, p = self.lower(args[0]), args[1]
            if p == 1:
                return Symbol("total", Symbol("abs", x))
            if p == 2:
                return Symbol("sqrt", Symbol("total", x * x))
            if not 0 < p < float("inf"):
                raise FormulaError("a norm of the largest entry is not summed")
            return Symbol("**", Symbol("total", Symbol("**", Symbol("abs", x), p)), 1.0 / p)
        if op == "pick":
            return self._at(self.lower(args[0]), args[1])
        if op == "each" and not isinstance(args[0], Symbol):
            return args[0]
        return Symbol(op, *map(self.lower, args))

    def _exponentials(self, x: Any) -> tuple[Any, Any, Any, Any]:
        x = self.lower(x)
        m = Symbol("top", x)
        e = Symbol("exp", x - Symbol("each", m))
        return x, m, Symbol("total", e), e

    def _at(self, value: Any, k: Any) -> Any:
        """One entry of a row, as a number."""
        if not isinstance(value, Symbol) or not is_row(value, self.rows):
            return value
        if value.op == "input":
            return Symbol("input", f"{value.args[0]}@{k.args[0]}")
        if value.op == "each":
            return value.args[0]
        if value.op == "index":
            return k
        return Symbol(value.op, *(self._at(a, k) for a in value.args))

    # --- numbers ----------------------------------------------------------------------------------------------------

    def number(self, value: Any) -> str:
        """The variable that holds a number of the row, whose sums are known."""
        name = self.numbers.name(self.lower(value))
        self._flush()
        return name

    def _number(self, symbol: Symbol) -> str | None:
        if symbol.op == "input":
            name, _, index = str(symbol.args[0]).partition("@")
            return f"at_{name}_{index}" if index else f"{name}_"
        return self.sums.get(self.numbers.key(symbol))

    def _flush(self) -> None:
        self.lines += self.numbers.lines[self._count :]
        self._count = len(self.numbers.lines)

    def sum_up(self, values: Sequence[Any]) -> None:
        """Loops over the classes until all sums that these values are made of are known."""
        while True:
            waiting: dict[Any, Symbol] = {}
            for value in values:
                self._collect(value, waiting)
            if not waiting:
                return
            for symbol in waiting.values():
                if symbol.op != "total":
                    (self._top if symbol.op == "top" else self._hinges)(symbol)
            self._totals([s for s in waiting.values() if s.op == "total"])

    def _collect(self, value: Any, waiting: dict[Any, Symbol]) -> bool:
        """Note the unknown sums below whose own parts are all known; say whether anything is unknown."""
        if not isinstance(value, Symbol) or value.op == "input":
            return False
        is_sum = value.op in ("top", "total", "hinges")
        if is_sum and self.numbers.key(value) in self.sums:
            return False
        below = [self._collect(a, waiting) for a in value.args]
        if is_sum and not any(below):
            waiting[self.numbers.key(value)] = value
        return is_sum or any(below)

    # --- loops ------------------------------------------------------------------------------------------------------

    def _loop(self, results: Sequence[Any]) -> tuple[list[str], list[str]]:
        """Lines inside a loop over c, and the names of what they compute; numbers are made ready before it."""
        hoisted: dict[Any, str] = {}
        loads: dict[str, str] = {}

        def given(symbol: Symbol) -> str | None:
            if symbol.op == "each" or not is_row(symbol, self.rows):
                inner = symbol.args[0] if symbol.op == "each" else symbol
                if symbol.op == "input" or symbol.op == "each" or self._holds_input(symbol):
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
            if self.kept is not None and symbol.op == "exp" and self.numbers.key(symbol) == self.kept:
                loads["kept"] = f"kept_ = {self.kept_at}[c]"
                return "kept_"
            return None

        lines = LossLines(self.dtype, "v", given)
        names = [lines.name(result) for result in results]
        return [*loads.values(), *lines.lines], names

    def _holds_input(self, symbol: Any) -> bool:
        return isinstance(symbol, Symbol) and (symbol.op == "input" or any(map(self._holds_input, symbol.args)))

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

    def _top(self, symbol: Symbol) -> None:
        name = f"s{len(self.sums)}"
        body, (result,) = self._loop([symbol.args[0]])
        self.lines += [
            *(f"{name}_top = ordered({self.dtype}(-math.inf))",),
            "for c in range(classes):",
            *(f"    {line}" for line in body),
            f"    o = ordered({result})",
            f"    {name}_top = o if o > {name}_top else {name}_top",
            f"{name} = float64(unordered({name}_top, {self.dtype}(0.0)))",
        ]
        self.sums[self.numbers.key(symbol)] = name

    def _hinges(self, symbol: Symbol) -> None:
        """Each listed class against those that are not; what comes of it for each class, for the gradient."""
        x, k = (argument.args[0] for argument in symbol.args)
        name = f"s{len(self.sums)}"
        self.scratch_rows = 2
        zero = f"{self.dtype}(0.0)"
        self.lines += [
            f"is_other = pointer(scratch, {self.dtype})",
            f"hinge_slope = pointer(scratch + classes * {BYTES[self.dtype]}, {self.dtype})",
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
            f"        part = add(part, {zero} if reached == {zero} else z)",
            "        count = add(count, reached)",
            "        hinge_slope[c] += reached",
            f"    {name} += float64(part)",
            "    hinge_slope[j] -= count",
        ]
        self.sums[self.numbers.key(symbol)] = name

    def _totals(self, symbols: Sequence[Symbol]) -> None:
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
        self.lines += [
            *(f"{name} = 0.0" for name in names),
            "first = 0",
            "while first < classes:",
            f"    stop_c = first + {CHUNK} if first + {CHUNK} < classes else classes",
            *(f"    part_{name} = {self.dtype}(0.0)" for name in names),
            "    for c in range(first, stop_c):",
            *(f"        {line}" for line in (*body, *keeps)),
            *(f"        part_{n} = add(part_{n}, {self.dtype}({r}))" for n, r in zip(names, results, strict=True)),
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
        scale = Symbol("input", "scale")
        dense = self.lower(slope.dense)
        if not slope.single:
            return dense * Symbol("each", scale), None
        places = {k.args[0] for _, k in slope.single}
        if len(places) > 1:
            raise FormulaError("a gradient has parts at several single classes")
        value = self._at(dense, slope.single[0][1])
        for number, _ in slope.single:
            value = value + self.lower(number)
        return dense * Symbol("each", scale), (places.pop(), value * scale)

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


def _column(form: Form, name: str) -> Column:
    return next(c for c in form.columns if c is not None and c.name == name)


def source(form: Form) -> tuple[str, tuple[str, ...], int]:
    """The kernel as Python that Numba compiles, its entries, and how many scratch rows each thread wants."""
    value, slopes, faults, rows = formulas(form)
    columns, wanted = form.given, form.by
    digest = hashlib.sha256(Path(__file__).with_name("polynomials.py").read_bytes()).hexdigest()
    text = [f"from piste.engine.polynomials import add, exp32, log1p32, log32, ordered, unordered  # {digest}", ""]
    own = bool(wanted) and wanted[0].storage != form.dtype
    # The gradient's own row, if it has the precision; under its own name, so that LLVM sees one row and not two.
    kept = ("kept" if own else f"g_{wanted[0].name}") if wanted else None
    row = _Row(form, rows, kept)
    scaled = [(c.name, *row.scaled(slope)) for c, slope in zip(wanted, slopes, strict=True)]
    parts = [part for _, dense, single in scaled for part in (dense, single and single[1])]
    row.sum_up([row.lower(part) for part in (*faults, value, *parts)])
    refused = " or ".join(row.number(fault) for fault in faults)
    row.lines.append(f"result = {row.number(value)}")
    if wanted:
        row.write(scaled)
    index = next((c for c in columns if c.kind == "index"), None)
    if form.divisor != "given":
        text += _prepare(form, index)
    if own and row.kept is not None:
        row.scratch_rows = 1
    text += _run(form, columns, wanted, index, row, refused)
    text += finish_lines(form)
    entries = (("prepare",) if form.divisor != "given" else ()) + ("run", "finish")
    return "\n".join(text), entries, row.scratch_rows


def _run(
    form: Form,
    columns: Sequence[Column],
    wanted: Sequence[Column],
    index: Column | None,
    row: _Row,
    refused: str,
) -> list[str]:
    """Blocks of rows, claimed until none is left."""
    dtype = form.dtype
    places = {c.name: COLUMNS + i for i, c in enumerate(columns)}
    grads = {c.name: COLUMNS + len(columns) + i for i, c in enumerate(wanted)}
    begin: list[str] = []
    for c in columns:
        if c.kind in ("row", "labels"):
            begin.append(
                f"a_{c.name} = pointer(table[{places[c.name]}] + r * classes * {BYTES[c.storage]}, "
                f"{pointed(c.storage)})"
            )
        elif c.kind == "number":
            begin.append(f"{c.name}_ = float64(pointer(table[{places[c.name]}], {c.storage})[r])")
    for c in wanted:
        begin.append(
            f"g_{c.name} = pointer(table[{grads[c.name]}] + r * classes * {BYTES[c.storage]}, {pointed(c.storage)})"
        )
    if row.kept_at == "kept" and row.kept is not None:
        begin.append(f"kept = pointer(scratch, {dtype})")
    cleared = [
        *(line for c in wanted for line in ("for c in range(classes):", f"    g_{c.name}[c] = {_zero(c)}")),
        *([f"out[r] = {stored(form.storage, '0.0')}"] if form.mode == "none" else []),
    ]
    if index is not None:
        picked = [
            f"at_{c.name}_{index.name} = float64({loaded(c, f'{index.name}_', form.dtype)})"
            for c in columns
            if c.kind in ("row", "shared")
        ]
        guard = [
            f"            {index.name}_ = pointer(table[{places[index.name]}], int64)[r]",
            f"            if {index.name}_ == table[{IGNORED}]:",
            *(f"                {line}" for line in cleared),
            "                r += 1",
            "                continue",
            f"            if {index.name}_ < 0 or {index.name}_ >= whole:",
            "                faults += 1",
            "                r += 1",
            "                continue",
        ]
    else:
        picked, guard = [], []
    ended = f"out[r] = {stored(form.storage, 'result')}" if form.mode == "none" else "total += result"
    return [
        "def run(table):",
        *options_lines(form.options, dtype),
        f"    scale_ = given[{SCALE}]",
        f"    partials = pointer(table[{PARTIALS}], float64)",
        f"    out = pointer(table[{OUT}], {pointed(form.storage)})",
        f"    whole = table[{CLASSES}]",
        "    classes = whole",
        "    classes_ = float64(classes)",
        *(
            f"    a_{c.name} = pointer(table[{places[c.name]}], {pointed(c.storage)})"
            for c in columns
            if c.kind == "shared"
        ),
        *(
            [
                f"    ticket = claim(pointer(table[{TICKETS}], int64))",
                f"    scratch = table[{SCRATCH}] + ticket * classes * {row.scratch_rows * BYTES[dtype]}",
            ]
            if row.scratch_rows
            else []
        ),
        "    while True:",
        "        block = claim(table)",
        f"        if block >= table[{BLOCKS}]:",
        "            break",
        f"        r = block * table[{PER_BLOCK}]",
        f"        stop = r + table[{PER_BLOCK}]",
        f"        stop = stop if stop < table[{ROWS}] else table[{ROWS}]",
        "        total = 0.0",
        "        faults = 0",
        "        while r < stop:",
        *(f"            {line}" for line in begin),
        *guard,
        *(f"            {line}" for line in (*picked, *row.lines)),
        *([f"            if {refused}:", "                faults += 1"] if refused else []),
        f"            {ended}",
        "            r += 1",
        "        partials[2 * block] = total",
        "        partials[2 * block + 1] = float64(faults)",
        "",
    ]


def _zero(column: Column) -> str:
    return "uint16(0)" if pointed(column.storage) == "uint16" else f"{column.storage}(0.0)"


def _prepare(form: Form, index: Column | None) -> list[str]:
    """What the mean divides by: the rows that are not ignored, or the sum of their weights."""
    assert index is not None
    columns = form.given
    k = COLUMNS + columns.index(index)
    is_weighted = form.divisor == "weights"
    lines = []
    if is_weighted:
        last = columns[-1]
        lines = [f"    a_{last.name} = pointer(table[{COLUMNS + len(columns) - 1}], {pointed(last.storage)})"]
        count = f"float64({loaded(last, 'j', form.dtype)})"
    else:
        count = "1.0"
    return [
        "def prepare(table):",
        f"    given = pointer(table[{NUMBERS}], float64)",
        f"    k = pointer(table[{k}], int64)",
        *lines,
        "    total = 0.0",
        f"    for r in range(table[{ROWS}]):",
        "        j = k[r]",
        f"        if j != table[{IGNORED}] and j >= 0 and j < table[{CLASSES}]:",
        f"            total += {count}",
        f"    given[{DIVISOR}] = total",
        f"    given[{SCALE}] = 1.0 / total",
        "",
    ]
