"""Generates the kernel of a loss of regions, whose places threads share.

The regions of a sample are rows of places, one for each class. Where the operand is logits, a softmax over the classes
at each place couples them: a stage before the sums of the rows makes probabilities of a tile of places, all classes at
once, and a stage after the gradient by the probabilities makes that by the logits. Vector lanes run over places. The
kernel has three entries:

1. `sums` leaves the sums of each region over a block of places, and the probabilities where the gradient will lie.
2. `scalars` adds the sums of the blocks, and leaves the loss of each region and the scalars that its gradient needs.
3. `slopes` writes the gradient, in place of the probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ...formula.expression import Expr, FormulaError, topological_order
from ..loss_trace import trace_rows
from ..native.tables import columns_from, word
from ..row_schedule import schedule_row
from ..specs import LossKernelSpec, Operand
from . import range_guards
from .loss_lines import CLASSES, PARTIALS, RUN, SCALE, SCRATCH, LossLines, ScalarLines, options_lines
from .tables import RegionTable
from .work_sharing import shared_lines

__all__ = ["BLOCK_PLACES", "TILE", "RegionSource", "region_source"]

TILE, LONG_TILE = 256, 1024  # places that are computed together, with and without a softmax
BLOCK_PLACES = 16 * TILE  # places of a block of work
PLACES, PER_SAMPLE, FIRST, SAMPLES, SUMS, SCALARS = (
    word(RegionTable, name) for name in ("places", "per_sample", "first", "samples", "sums", "scalars")
)
COLUMNS = columns_from(RegionTable)
OVER_PLACES = "for j in range(width):"
ROW = 4 * TILE  # bytes of a row of scratch memory
FREE = COLUMNS + 4  # the number of the first column of scratch memory, behind operands and gradients
OF_PLACE = (("top", FREE), ("whole", FREE + 1), ("index", FREE + 2))
SHARED_ROWS = len(OF_PLACE)
OF_LOGITS = (["logits", "row"], ["logits", "classes"])
"""The kinds of operands of which the softmax over the classes is computed too."""
E = f"e = column(scratch + ({SHARED_ROWS} + c) * {ROW}, float32, {FREE + 3})"
D = f"d = column(scratch + ({SHARED_ROWS} + classes + c) * {ROW}, float32, {FREE + 4})"


class RegionSource(NamedTuple):
    """The kernel as Python that Numba compiles.

    Attributes:
        text: The source.
        entries: The names of its entries.
        sums: The number of sums of a region.
        scalars: The number of scalars of a region that the gradients need.
    """

    text: str
    entries: tuple[str, ...]
    sums: int
    scalars: int


def region_source(spec: LossKernelSpec) -> RegionSource:
    """Return the kernel of a spec.

    Raises:
        FormulaError: The loss has other passes than one of sums, or only the gradient by the labels is wanted.
    """
    kernel = _Kernel(spec)
    entries = {"sums": kernel.sums(), "scalars": kernel.scalars()}
    if spec.grad_operands:
        entries["slopes"] = kernel.slopes()
    text = "\n".join(line for lines in entries.values() for line in lines)
    return RegionSource(text, tuple(entries), len(kernel.summands), len(kernel.slots))


class _Kernel:
    """The lines of a kernel."""

    def __init__(self, spec: LossKernelSpec) -> None:
        self.spec, self.wanted = spec, spec.grad_operands
        if len(spec.operands) != 2 or [x.kind for x in spec.operands] not in (*OF_LOGITS, ["row", "row"]):
            raise FormulaError("regions have probabilities or logits, and labels")
        self.logits, self.labels = spec.operands
        self.is_softmax = self.logits.kind == "logits"
        self.tile = TILE if self.is_softmax else LONG_TILE
        of_rows = [x.storage for x in spec.operands if x.kind != "classes"]
        if spec.dtype != "float32" or set(of_rows) != {"float32"}:  # exp of float64 has no vector form
            raise FormulaError("regions are computed in float32")
        if spec.mode == "none":  # an incoming gradient of each region would be a part of the sum over the classes
            raise FormulaError("the losses of regions are added")
        if self.wanted and self.wanted[0] != self.logits:
            raise FormulaError("the gradient by the labels goes with that by the logits")
        value, slopes, faults, rows = trace_rows(spec)
        by_name = {c.name: slope for c, slope in zip(self.wanted, slopes, strict=True)}
        stores = bool(self.wanted) and not self.is_softmax  # where the gradient will lie
        self.schedule = schedule_row(value, by_name, faults, rows=rows, stores_exponentials=stores)
        if [row_pass.kind for row_pass in self.schedule.passes] != ["total"] or self.schedule.conditions:
            raise FormulaError("regions have one pass of sums")
        self.summands = self.schedule.passes[0].reductions
        self.per_block = f"(classes * {len(self.summands)} + 1)"  # sums of a block, the last one counts faults
        self.slots: dict[Expr, tuple[str, Any]] = {}  # the scalars of the gradients, by their common form
        self.keys = LossLines(spec.dtype, "", lambda _: None)
        stored = self.schedule.passes[0].stores
        self.gradients = self._body([gradient.dense for gradient in self.schedule.gradients], stored)

    def sums(self) -> list[str]:
        """Return the entry that makes probabilities and adds them over each block."""
        known_scalars = len(self.slots)
        stored = self.schedule.passes[0].stores
        body, names = self._body([*(node.args[0] for node in self.summands), *([] if stored is None else [stored])])
        if len(self.slots) > known_scalars:
            raise FormulaError("a sum of a region depends on another one")
        x, keeps = self.logits.name, []
        if self.wanted and self.is_softmax:
            keeps = [f"g_{x}[j] = p_"]
        elif stored is not None:
            keeps = [f"g_{x}[j] = {names.pop()}"]
        kept_at = [self._operand("g", self.wanted[0])] if keeps else []
        tile = [
            *self._indices(is_checked=True),
            *(self._softmax() if self.is_softmax else []),
            "for c in range(classes):",
            *_indented("c_ = float32(c)", *self._probability([E]), *self._labels(), *kept_at),
            *(f"    part{i} = float32(0.0)" for i in range(len(names))),
            f"    {OVER_PLACES}",
            f"        p_ = {'e[j] * whole[j]' if self.is_softmax else f'a_{x}[j]'}",
            *(f"        {line}" for line in (*body, *self._guards(), *keeps)),
            *(f"        part{i} = fast_add(part{i}, float32({name}))" for i, name in enumerate(names)),
            *(f"    sums[c * {len(names)} + {i}] += float64(part{i})" for i in range(len(names))),
        ]
        bounds = [bound for bound in self.spec.bounds if bound.kind != "class"]
        block = [
            f"sums = pointer(table[{SUMS}] + at * {self.per_block} * 8, float64)",
            f"for i in range{self.per_block}:",
            "    sums[i] = 0.0",
            "faults = 0",
            *(range_guards.start(bound, "float32") for bound in bounds),
            *_over_tiles(tile, self.tile),
            *(f"faults += 1 if {range_guards.broken(bound, 'float32')} else 0" for bound in bounds),
            f"sums[classes * {len(names)}] = float64(faults)",
        ]
        return self._of_blocks("sums", block)

    def _probability(self, of_softmax: list[str]) -> list[str]:
        return of_softmax if self.is_softmax else [self._operand("a", self.logits)]

    def _softmax(self) -> list[str]:
        """Return the lines that leave e^(x - max) of each class, and the reciprocal of their sum."""
        return [
            OVER_PLACES,
            "    top[j], whole[j] = float32(-math.inf), float32(0.0)",
            "for c in range(classes):",
            *_indented(self._operand("a", self.logits), E, OVER_PLACES),
            f"        v = a_{self.logits.name}[j]",
            "        e[j] = v",
            "        top[j] = v if v > top[j] else top[j]",
            "for c in range(classes):",
            *_indented(E, OVER_PLACES),
            "        v = exp32_nonpositive(e[j] - top[j])",
            "        e[j] = v",
            "        whole[j] = whole[j] + v",
            OVER_PLACES,
            "    whole[j] = float32(1.0) / whole[j]",
        ]

    def scalars(self) -> list[str]:
        """Return the entry that makes the loss of each region and the scalars of its gradients from its sums."""
        known = {self.keys.key(node): f"s{i}" for i, node in enumerate(self.summands)}

        def given(node: Expr) -> str | None:
            return f"{node.args[0]}_" if node.op == "input" else known.get(self.keys.key(node))

        lines = ScalarLines("float64", "n", given)
        result = lines.name(self.schedule.value)
        kept = [f"scalars[{i}] = float32({lines.name(value)})" for i, (_, value) in enumerate(self.slots.values())]
        blocks = f"for at in range(sample * table[{PER_SAMPLE}], (sample + 1) * table[{PER_SAMPLE}]):"
        of_block = f"    sums = pointer(table[{SUMS}] + at * {self.per_block} * 8, float64)"
        count = len(self.summands)
        region = [
            *(f"{name} = 0.0" for name in known.values()),
            blocks,
            of_block,
            *(f"    {name} += sums[c * {count} + {i}]" for i, name in enumerate(known.values())),
            *lines.lines,
            *self._scalars(),
            *kept,
            f"total += {result}",
        ]
        return [
            *self._head("scalars"),
            f"    partials = pointer(table[{PARTIALS}], float64)",
            f"    first = table[{FIRST}] // table[{PER_SAMPLE}]",
            f"    for sample in range(first, first + table[{SAMPLES}]):",
            "        total, faults = 0.0, 0.0",
            "        for c in range(classes):",
            *(f"            {line}" for line in region),
            *(f"        {line}" for line in (blocks, of_block, f"    faults += sums[classes * {count}]")),
            "        partials[2 * sample] = total",
            "        partials[2 * sample + 1] = faults",
            "",
        ]

    def slopes(self) -> list[str]:
        """Return the entry that writes the gradient, from the probabilities in its place where there is a softmax."""
        body, names = self.gradients
        operands = [self._operand("g", c) for c in self.wanted]
        scalars = [*self._scalars(), *(f"{name} = scalars[{i}]" for i, (name, _) in enumerate(self.slots.values()))]
        stores = [f"g_{c.name}[j] = {name}" for c, name in zip(self.wanted, names, strict=True)]
        before, after = [], []
        p = f"a_{self.logits.name}[j]"
        if self.is_softmax:
            p, (by_p, *_) = f"g_{self.logits.name}[j]", names
            stores[0] = f"e[j], d[j] = p_, {by_p}"
            stores.insert(1, f"whole[j] = whole[j] + p_ * {by_p}")
            before = [OVER_PLACES, "    whole[j] = float32(0.0)"]
            after = ["for c in range(classes):", *_indented(E, D, operands[0], OVER_PLACES)]
            after.append(f"        {p} = e[j] * (d[j] - whole[j])")
        tile = [
            *self._indices(),
            *before,
            "for c in range(classes):",
            *_indented(
                "c_ = float32(c)", *self._probability([E, D]), *self._labels(), *operands, *scalars, OVER_PLACES
            ),
            f"        p_ = {p}",
            *(f"        {line}" for line in (*body, *stores)),
            *after,
        ]
        return self._of_blocks("slopes", _over_tiles(tile, self.tile))

    def _body(self, values: Sequence[Any], stored: Expr | None = None) -> tuple[list[str], list[str]]:
        """Return the lines inside a loop over places, and the names of their results, where a value is stored."""
        loads: dict[str, str] = {}
        key = None if stored is None else self.keys.key(stored)

        def known(node: Expr) -> str | None:
            if node.op == "each":
                return self._scalar(node.args[0])
            if not self.schedule.is_row(node):
                return self._scalar(node) if any(x.op == "input" for x in topological_order(node)) else None
            if stored is not None and node.op == stored.op and self.keys.key(node) is key:
                loads["kept"] = f"kept_ = g_{self.logits.name}[j]"
                return "kept_"
            if node.op != "input":
                return None
            if node.args[0] == self.logits.name:
                return "p_"
            is_index = self.labels.kind == "classes"
            loads["label"] = f"label_ = {'one if index[j] == c_ else zero' if is_index else f'a_{self.labels.name}[j]'}"
            return "label_"

        lines = LossLines(self.spec.dtype, "v", known)
        names = [lines.name(value) for value in values]
        return [*loads.values(), *lines.lines], names

    def _scalar(self, value: Any) -> str:
        """Return the variable of a scalar of a region."""
        return self.slots.setdefault(self.keys.key(value), (f"h{len(self.slots)}", value))[0]

    def _scalars(self) -> list[str]:
        at = f"table[{SCALARS}] + (sample * classes + c) * {4 * len(self.slots)}"
        return [f"scalars = pointer({at}, float32)"] if self.slots else []

    def _indices(self, is_checked: bool = False) -> list[str]:
        """Return the lines that read the class index of each place of a tile, as a number that vectorises."""
        if self.labels.kind != "classes":
            return []
        place = self._place(self.labels)
        k = f"column(table[{place}] + (sample * places + place) * 8, int64, {place})"
        checks = [bound for bound in self.spec.bounds if is_checked and bound.kind == "class"]
        return [
            f"k = {k}",
            OVER_PLACES,
            "    index[j] = float32(k[j])",
            *("    faults += 1 if (k[j] < 0) | (k[j] >= classes) else 0" for _ in checks),
        ]

    def _labels(self) -> list[str]:
        return [] if self.labels.kind == "classes" else [self._operand("a", self.labels)]

    def _guards(self) -> list[str]:
        bounds = [bound for bound in self.spec.bounds if bound.kind != "class"]
        values = ("p_", "label_")
        return [line for bound in bounds for line in range_guards.update(bound, values[bound.operand], "float32")]

    def _operand(self, letter: str, operand: Operand) -> str:
        """Return the line that finds the places of a class: of an operand (a), or of its gradient (g)."""
        place = self._place(operand, letter == "g")
        start = f"table[{place}] + ((sample * classes + c) * places + place) * 4"
        return f"{letter}_{operand.name} = column({start}, float32, {place})"

    def _place(self, operand: Operand, is_gradient: bool = False) -> int:
        if is_gradient:
            return COLUMNS + len(self.spec.operands) + self.wanted.index(operand)
        return COLUMNS + self.spec.operands.index(operand)

    def _head(self, name: str) -> list[str]:
        return [
            f"def {name}(table):",
            *options_lines(self.spec.options, "float32"),
            f"    scale_ = given[{SCALE}]",
            "    one, zero = float32(1.0), float32(0.0)",
            f"    classes, places = table[{CLASSES}], table[{PLACES}]",
            "    classes_ = float64(places)",
        ]

    def _of_blocks(self, name: str, block: Sequence[str]) -> list[str]:
        """Return an entry that threads run for blocks of places."""
        of_block = [
            f"scratch = table[{SCRATCH}] + own * (2 * classes + {SHARED_ROWS}) * {ROW}",
            *(f"{name} = column(scratch + {i * ROW}, float32, {name_})" for i, (name, name_) in enumerate(OF_PLACE)),
            f"at = table[{FIRST}] + block",
            f"sample = at // table[{PER_SAMPLE}]",
            f"place = (at - sample * table[{PER_SAMPLE}]) * {BLOCK_PLACES}",
            f"stop = place + {BLOCK_PLACES} if place + {BLOCK_PLACES} < places else places",
            *block,
        ]
        return [*self._head(name), *shared_lines(of_block, f"table[{RUN}]"), ""]


def _over_tiles(lines: Sequence[str], size: int) -> list[str]:
    """Return a loop over the tiles of a block."""
    return [
        "while place < stop:",
        f"    width = {size} if place + {size} < stop else stop - place",
        *_indented(*lines),
        "    place += width",
    ]


def _indented(*lines: str) -> list[str]:
    return [f"    {line}" for line in lines]
