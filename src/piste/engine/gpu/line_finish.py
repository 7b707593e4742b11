"""The GPU kernel after a pass of a step that reduces over rows or columns: the values that follow from the sums."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from ..hoisting import LINES, PER_COLUMN, PER_MATRIX, PER_ROW, PER_TENSOR
from ..line_stages import Stage
from ..specs import StepSpec
from .dialect import FUNCTIONS
from .line_source import (
    COUNTS,
    LARGE,
    SMALL,
    STARTS,
    later_scalars,
    line_arguments,
    lines_of_tensor,
    names_in,
    places_in,
)
from .step_kernel import KernelSource, Layout, scalar_lines
from .step_scalars import SUMS
from .step_split import LETTERS, Split, split

__all__ = ["STAGES", "finish_source", "reduces_lines_of_all"]

STAGES = {LARGE: (1, 1024), SMALL: (128, 8)}
"""The matrices and the lines of a matrix that `finish` takes at a time."""
_SIZES = {PER_ROW: "height", PER_COLUMN: "breadth"}


def reduces_lines_of_all(parts: Split, number: int) -> bool:
    """Return whether the values after a pass are reduced over the tensor, so that one block must take all matrices."""
    assert parts.plan is not None
    return any(x.extent == PER_TENSOR for stage in parts.plan.stages[number] for x in stage.reductions)


@cache
def finish_source(spec: StepSpec, layout: Layout, rows: bool, number: int) -> KernelSource | None:
    """Return the kernel that computes the values after a pass, or in front of the first one where that is -1.

    A block takes the matrices at a place, or all of a tensor (see `reduces_lines_of_all`). Blocks of one tensor compute
    its scalars again, from the same numbers in the same order.

    Returns:
        The kernel, or None where there is nothing to compute.
    """
    parts = split(spec, layout.columns)
    assert parts.plan is not None
    stages = parts.plan.stages[1 + number]
    of_all = [] if number < 0 else parts.plan.passes[number].over(PER_TENSOR)
    writer = _StageWriter(spec, layout, parts, reduces_lines_of_all(parts, 1 + number))
    work = [line for k, stage in enumerate(stages) for line in writer.stage(k, stage)]
    if not work and not of_all:
        return None
    sums = []
    if of_all:
        sums = [
            "first = tl.load(firsts + i)",
            "last = tl.load(firsts + i + 1)",
            f"lane = tl.arange(0, {SUMS})",
            *(f"t{k} = tl.zeros(({SUMS},), tl.float64)" for k in range(len(of_all))),
            "while first < last:",
            "    at = first + lane",
            *(
                f"    t{k} += tl.load(partials + at * {len(of_all)} + {k}, mask=at < last, other=0.0)"
                for k in range(len(of_all))
            ),
            f"    first += {SUMS}",
        ]
    for k, x in enumerate(of_all):
        divisor = " / (all_rows * breadth).to(tl.float64)" * x.is_mean
        sums += [f"h{x.place} = tl.sum(t{k}){divisor}", f"tl.store(found_row + {x.place}, h{x.place})"]
    used = names_in(work)
    known = {f"h{x.place}" for x in of_all} | writer.assigned
    arguments = line_arguments(parts, rows, "fp64")
    entry = f"finish{number}" if number >= 0 else "begin"
    text = [
        FUNCTIONS.strip(),
        "",
        "",
        "@triton.jit",
        f"def {entry}({', '.join(name for name, _ in arguments)}):",
        "    block = tl.load(blocks + tl.program_id(0))",
        "    i = block >> 32",
        "    chunk = block & 0xFFFFFFFF",
        *(f"    {line}" for line in scalar_lines(parts, rows, "float64", 0)),
        *(f"    {line}" for line in lines_of_tensor(parts)),
        *(f"    {line}" for line in later_scalars(parts, used - known, "float64")),
        *(f"    {line}" for line in (*sums, *work)),
        "",
    ]
    return KernelSource("\n".join(text), entry, tuple(arguments))


class _StageWriter:
    """Writes the stages after a pass."""

    def __init__(self, spec: StepSpec, layout: Layout, parts: Split, takes_all: bool) -> None:
        self._kinds = dict(zip(parts.columns, layout.columns, strict=True))
        self._kept = [parts.columns[0], *parts.columns[2:]]
        self._extents = {name: LINES[kind] for name, kind in spec.lines.items()}
        self._matrices, self._lanes = STAGES[layout.tile]
        self._takes_all = takes_all
        self.assigned: set[str] = set()
        """The scalars that the stages so far compute."""

    def stage(self, number: int, stage: Stage) -> list[str]:
        """Write a stage."""
        own = {extent: _numbered(lines, number) for extent, lines in stage.lines.items()}
        of_all = [x for x in stage.reductions if x.extent == PER_TENSOR]
        of_matrices = [x for x in stage.reductions if x.extent == PER_MATRIX]
        lines = self._stored(own.get(PER_TENSOR, []), PER_TENSOR)
        lines += [f"u{x.place} = tl.full((), 0.0, tl.float64)" for x in of_all]
        inner = self._stored(own[PER_MATRIX], PER_MATRIX)
        inner += [f"y{x.place} = tl.zeros(({self._matrices},), tl.float64)" for x in of_matrices]
        inner += self._added(stage, PER_MATRIX, number, "in_m", "")
        for extent in (PER_ROW, PER_COLUMN):
            inner += self._of_lines(extent, own[extent], self._added(stage, extent, number, "inside", ", 1"))
        for x in of_matrices:
            divisor = f" / {_SIZES[x.of]}.to(tl.float64)" * x.is_mean
            inner += self._stored([f"q{x.place} = y{x.place}{divisor}"], PER_MATRIX)
        if inner:
            given = set(re.findall(r"^q\d+(?= =)", "\n".join(inner), re.MULTILINE))
            loads = [
                f"q{k} = tl.load(values + start_q + {k} * matrices + m, mask=in_m, other=0.0)"
                for k in places_in(names_in(inner), PER_MATRIX)
                if f"q{k}" not in given
            ]
            count = f"(matrices + {self._matrices - 1}) // {self._matrices}"
            lines += [
                "at_m = chunk",
                f"last_m = {count if self._takes_all else 'chunk + 1'}",
                "while at_m < last_m:",
                f"    m = at_m * {self._matrices} + tl.arange(0, {self._matrices})",
                "    in_m = m < matrices",
                *(f"    {line}" for line in (*loads, *inner)),
                "    at_m += 1",
                "tl.debug_barrier()",  # the next stage reads what other threads have stored
            ]
        for x in of_all:
            divisor = f" / {COUNTS[x.of]}.to(tl.float64)" * x.is_mean
            lines += self._stored([f"h{x.place} = u{x.place}{divisor}"], PER_TENSOR)
        return lines

    def _of_lines(self, extent: int, lines: list[str], added: list[str]) -> list[str]:
        """Write the loop over the rows or the columns of some matrices."""
        work = [re.sub(r"\b(q\d+)\b", r"\1[:, None]", line) for line in (*self._stored(lines, extent), *added)]
        if not work:
            return []
        used, size, letter = names_in(work), _SIZES[extent], LETTERS[extent]
        own = set(re.findall(rf"^{letter}\d+(?= =)", "\n".join(work), re.MULTILINE))
        names = [name for name, of in self._extents.items() if of == extent]
        at = [name for name in names if f"{name}_" in used or f"a_{name}" in used]
        return [
            *(
                f"a_{name} = tl.load(addresses + {self._kept.index(name)} * count + i)"
                f".to(tl.pointer_type(tl.{self._kinds[name]}))"
                for name in at
            ),
            "start = tl.full((), 0, tl.int64)",
            f"while start < {size}:",
            f"    r = start + tl.arange(0, {self._lanes})",
            f"    inside = in_m[:, None] & (r < {size})[None, :]",
            f"    j = m[:, None] * {size} + r[None, :]",
            *(
                f"    {name}_ = tl.load(a_{name} + j, mask=inside, other=0.0).to(tl.float64)"
                for name in names
                if f"{name}_" in used
            ),
            *(
                f"    {letter}{k} = tl.load(values + {STARTS[extent]} + {k} * {COUNTS[extent]} + j, mask=inside, "
                "other=0.0)"
                for k in places_in(used, extent)
                if f"{letter}{k}" not in own
            ),
            *(f"    {line}" for line in work),
            f"    start += {self._lanes}",
        ]

    def _stored(self, lines: Sequence[str], extent: int) -> list[str]:
        """Return lines, and store the values that they assign."""
        found = []
        for line in lines:
            found.append(line)
            name, is_assigned, _ = line.partition(" = ")
            if not is_assigned:
                continue
            if name.startswith("new_") and extent in _SIZES:
                letter = name.removeprefix("new_")
                value = f"tl.where(inside, {name}, 0.0).to(tl.{self._kinds[letter]})"
                found.append(f"tl.store(a_{letter} + j, {value}, mask=inside)")
            elif re.fullmatch(rf"{LETTERS[extent]}\d+", name) and extent == PER_TENSOR:
                self.assigned.add(name)
                found.append(f"tl.store(found_row + {name[1:]}, {name})")
            elif re.fullmatch(rf"{LETTERS[extent]}\d+", name):
                at, mask = ("m", "in_m") if extent == PER_MATRIX else ("j", "inside")
                place = f"values + {STARTS[extent]} + {name[1:]} * {COUNTS[extent]} + {at}"
                found.append(f"tl.store({place}, tl.where({mask}, {name}, 0.0), mask={mask})")
        return found

    @staticmethod
    def _added(stage: Stage, extent: int, number: int, mask: str, axis: str) -> list[str]:
        """Return the lines that add the operands of reductions of values of an extent."""
        lines = []
        for x in stage.of(extent):
            (operand,) = _numbered([x.operand], number)
            if x.extent == PER_TENSOR:
                lines.append(f"u{x.place} += tl.sum(tl.where({mask}, {operand}, 0.0))")
            else:
                lines.append(f"y{x.place} += tl.sum(tl.where({mask}, {operand}, 0.0){axis})")
        return lines


def _numbered(lines: Sequence[str], stage: int) -> list[str]:
    """Return lines whose own variables have names that no other stage has."""
    return [re.sub(r"\bs(\d)_(\d+)\b", rf"s\1_\2_{stage}", line) for line in lines]
