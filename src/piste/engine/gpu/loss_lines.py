"""The parts that every kernel of a loss on the GPU has: options, the ordered sum of all blocks, and violations.

A block stores its partial sum and takes a ticket; the block with the last ticket adds all partial sums in the order of
the blocks, so every run gives the same bits. A block that finds violations of a value check stores them next to its
sum, and the block with the last ticket writes the first of them to pinned memory, where the host reads it later.

The workspace of a stream is an array of 64-bit words: the ticket, the partial sums, the number of violations of each
block, and `DETAIL` words for each block and check: the number of violations, the position and the value of the first,
and the position and the value of the one farthest from 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...formula.expression import Expr, is_number
from ..loss_emitter import LossEmitter
from ..specs import LossKernelSpec
from .dialect import triton

__all__ = [
    "CHECK_FUNCTIONS",
    "DETAIL",
    "FEW_ROWS",
    "MOST_BLOCKS",
    "OF_FEW",
    "REPORT",
    "TYPES",
    "LossLines",
    "block_lines",
    "counted_lines",
    "divisor_argument",
    "finish_lines",
    "nothing_line",
    "option_arguments",
    "option_lines",
    "scale_lines",
    "start_lines",
    "update_lines",
    "workspace_words",
]

MOST_BLOCKS = 8192  # of a launch; larger tensors give each block more work
FEW_ROWS = 1024  # up to which each block finds the denominator, which saves a launch
OF_FEW = "few "  # in front of the kind of a denominator that each block finds
DETAIL = 5
REPORT = 8  # words of a report in pinned memory
_SUMS = 16  # the ticket has a cache line
_COUNTS = _SUMS + MOST_BLOCKS
_DETAILS = _COUNTS + MOST_BLOCKS
_NOWHERE = (1 << 62) - 1  # the position of a violation that was not found
LANES = 1024
TYPES = {"float64": "fp64", "float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}

CHECK_FUNCTIONS = f'''
@triton.jit
def magnitude(word, is_index):
    """The distance from 0 of a value that is an integer, or the bits of a double."""
    return tl.where(is_index != 0, tl.abs(word.to(tl.float64)), tl.abs(word.to(tl.float64, bitcast=True)))


@triton.jit
def with_block(count, first, value, far_at, far, bad, at, word, is_index):
    """Violations, and those among some more elements, which have greater positions."""
    first_here = tl.min(tl.where(bad, at, {_NOWHERE}))
    value_here = tl.sum(tl.where(bad & (at == first_here), word, 0))
    size = magnitude(word, is_index)
    farthest = tl.max(tl.where(bad, size, -1.0))
    far_here = tl.min(tl.where(bad & (size == farthest), at, {_NOWHERE}))
    far_word = tl.sum(tl.where(bad & (at == far_here), word, 0))
    more = tl.sum(tl.where(bad, 1, 0)).to(tl.int64)
    is_first = (count == 0) & (more > 0)
    is_farther = is_first | ((more > 0) & (farthest > magnitude(far, is_index)))
    return (
        count + more,
        tl.where(is_first, first_here, first),
        tl.where(is_first, value_here, value),
        tl.where(is_farther, far_here, far_at),
        tl.where(is_farther, far_word, far),
    )


@triton.jit
def report(workspace, to, blocks, checks, check, is_index):
    """Write the violations of a check in all blocks to pinned memory; return their number."""
    count = tl.full((), 0, tl.int64)
    first = tl.full((), 0, tl.int64)
    value = tl.full((), 0, tl.int64)
    far_at = tl.full((), 0, tl.int64)
    far = tl.full((), 0, tl.int64)
    block = tl.full((), 0, tl.int64)
    while block < blocks:
        here = tl.load(workspace + {_COUNTS} + block, cache_modifier=".cg")
        if here > 0:
            found = workspace + {_DETAILS} + (block * checks + check) * {DETAIL}
            more = tl.load(found, cache_modifier=".cg")
            if more > 0:
                far_here = tl.load(found + 4, cache_modifier=".cg")
                is_first = count == 0
                is_farther = is_first | (magnitude(far_here, is_index) > magnitude(far, is_index))
                first = tl.where(is_first, tl.load(found + 1, cache_modifier=".cg"), first)
                value = tl.where(is_first, tl.load(found + 2, cache_modifier=".cg"), value)
                far_at = tl.where(is_farther, tl.load(found + 3, cache_modifier=".cg"), far_at)
                far = tl.where(is_farther, far_here, far)
                count += more
        block += 1
    if count > 0:
        tl.store(to + 1, check)
        tl.store(to + 2, count)
        tl.store(to + 3, first)
        tl.store(to + 4, value)
        tl.store(to + 5, far_at)
        tl.store(to + 6, far)
        tl.store(to, 1)
    return count
'''


def workspace_words(checks: int) -> int:
    """Return the size of the workspace of a stream for kernels with some number of checks."""
    return _DETAILS + MOST_BLOCKS * DETAIL * checks


class LossLines(LossEmitter):
    """An emitter whose options are arguments of the kernel."""

    def __init__(self, precision: str, prefix: str, given: Callable[[Expr], str | None]) -> None:
        double = None if precision == "float64" else triton("float64")
        super().__init__(triton(precision), prefix, given, double, f"{{0}}.to(tl.{precision})")


def option_arguments(spec: LossKernelSpec) -> list[tuple[str, str]]:
    """Return the arguments that hold the numbers among the options in double precision, with their types."""
    return [(f"d_{name}", "fp64") for name, value in spec.options if is_number(value)]


def option_lines(spec: LossKernelSpec) -> list[str]:
    """Return the lines that round the numbers among the options to the precision of the computation (o_)."""
    names = [name for name, value in spec.options if is_number(value)]
    return [f"o_{name} = d_{name}.to(tl.{spec.dtype})" for name in names]


def divisor_argument(spec: LossKernelSpec) -> tuple[str, str]:
    """Return the argument that holds the denominator, its address on the device, or the mean of no rows."""
    if spec.divisor == "given":
        return "divisor", "fp64"
    return ("is_nothing_nan", "i64") if spec.divisor.startswith(OF_FEW) else ("by", "i64")


def counted_lines(kind: str, index: str, weights: str, storage: str) -> list[str]:
    """Return lines that compute what rows add to a denominator.

    Args:
        kind: the "count" of the rows that are not ignored, or their "weights".
        index: the argument with the address of the class indices, of which there are `rows`; `counted_row` has those
            to read.
        weights: the argument with the address of the class weights.
        storage: the dtype of the weights.
    """
    part = "tl.where(counts_here, 1.0, 0.0)"
    if kind == "weights":
        known = "(counted_index >= 0) & (counted_index < classes)"
        pointer = f"{weights}.to(tl.pointer_type(tl.{storage})) + counted_index"
        part = f"tl.load({pointer}, mask=counts_here & {known}, other=0.0)"
    pointer = f"{index}.to(tl.pointer_type(tl.int64)) + counted_row"
    return [
        f"counted_index = tl.load({pointer}, mask=counted_row < rows, other=0)",
        "counts_here = (counted_row < rows) & (counted_index != ignored)",
        f"counted = {part}.to(tl.float64)",
    ]


def nothing_line(name: str) -> str:
    """Return the line that makes a denominator of no rows 1, unless their mean is NaN."""
    return f"{name} = tl.where(({name} == 0.0) & (is_nothing_nan == 0), 1.0, {name})"


def _divisor_lines(spec: LossKernelSpec) -> list[str]:
    """Return the lines that find the denominator, and whether one of no rows is an error."""
    if not spec.rejects_nothing:
        return _found_divisor_lines(spec)
    return [*_found_divisor_lines(spec), "is_nothing = divisor == 0.0", "divisor = tl.where(is_nothing, 1.0, divisor)"]


def _found_divisor_lines(spec: LossKernelSpec) -> list[str]:
    """Return the lines that find the denominator; each block counts the rows of a few itself."""
    if spec.divisor == "given":
        return []
    if not spec.divisor.startswith(OF_FEW):
        return ["divisor = tl.load(by.to(tl.pointer_type(tl.float64)))"]
    index = next(c for c in spec.operands if c.kind == "index")
    last = spec.operands[-1]
    return [
        "rows = inner * groups",
        f"counted_row = tl.arange(0, {FEW_ROWS})",
        *counted_lines(spec.divisor.removeprefix(OF_FEW), f"a_{index.name}", f"a_{last.name}", last.storage),
        "divisor = tl.sum(counted)",
        nothing_line("divisor"),
    ]


def scale_lines(spec: LossKernelSpec, again: bool) -> list[str]:
    """Return the factor of the gradients; with `again` and an incoming gradient of 1 the kernel ends."""
    lines = _divisor_lines(spec)
    if not again:
        return [*lines, f"scale = (1.0 / divisor).to(tl.{spec.dtype})"]
    return [
        f"factor_ = tl.load(factor.to(tl.pointer_type(tl.{spec.storage}))).to(tl.float64)",
        "if factor_ == 1.0:",
        "    return",
        *lines,
        f"scale = (factor_ / divisor).to(tl.{spec.dtype})",
    ]


def start_lines(checks: int) -> list[str]:
    """Return the lines before the work of a block."""
    lines = [
        "block = tl.program_id(0).to(tl.int64)",
        "blocks = tl.num_programs(0).to(tl.int64)",
        "words = workspace.to(tl.pointer_type(tl.int64))",
        f"sums = (workspace + {8 * _SUMS}).to(tl.pointer_type(tl.float64))",
    ]
    for j in range(checks):
        lines += [f"{name}_{j} = tl.full((), 0, tl.int64)" for name in ("count", "first", "value", "far_at", "far")]
    return lines


def update_lines(check: int, bad: str, at: str, word: str, is_index: bool) -> list[str]:
    """Add the violations among some elements to those of a check."""
    names = ", ".join(f"{name}_{check}" for name in ("count", "first", "value", "far_at", "far"))
    return [f"{names} = with_block({names}, {bad}, {at}, {word}, {int(is_index)})"]


def block_lines(checks: int) -> list[str]:
    """Store the violations of a block."""
    if not checks:
        return []
    count = " + ".join(f"count_{j}" for j in range(checks))
    lines = [f"bad_here = {count}", f"tl.store(words + {_COUNTS} + block, bad_here)", "if bad_here > 0:"]
    for j in range(checks):
        at = f"words + {_DETAILS} + (block * {checks} + {j}) * {DETAIL}"
        lines += [
            f"    tl.store({at} + {k}, {name}_{j})"
            for k, name in enumerate(("count", "first", "value", "far_at", "far"))
        ]
    return lines


def finish_lines(result: Sequence[str], is_index: Sequence[bool], *, rejects_nothing: bool = False) -> list[str]:
    """Take a ticket; in the last block, add the sums and report the violations.

    Args:
        result: the lines that store the sum of all blocks, named `total`; none where there is no sum.
        is_index: for each check, whether its values are integers.
        rejects_nothing: whether a mean of no rows is reported, as a violation of the first check by no value.
    """
    checks = len(is_index)
    if not result and not checks:
        return []
    loads = []
    if result:
        loads.append("added += tl.load(sums + at, mask=at < blocks, other=0.0, cache_modifier='.cg')")
    if checks:
        counts = f"words + {_COUNTS} + at"
        loads.append(f"bad += tl.load({counts}, mask=at < blocks, other=0, cache_modifier='.cg')")
    lines = [
        "tl.debug_barrier()",
        "ticket = tl.atomic_add(words, 1, sem='acq_rel')",
        "if ticket == blocks - 1:",
        "    tl.store(words, 0)",
        f"    added = tl.zeros(({LANES},), tl.float64)",
        f"    bad = tl.zeros(({LANES},), tl.int64)",
        "    i = tl.full((), 0, tl.int64)",
        "    while i < blocks:",
        f"        at = i + tl.arange(0, {LANES})",
        *(f"        {line}" for line in loads),
        f"        i += {LANES}",
        "    total = tl.sum(added)",
        *(f"    {line}" for line in result),
    ]
    if checks:
        lines += [
            "    if tl.sum(bad) > 0:",
            "        word = reports.to(tl.pointer_type(tl.int64))",
            f"        to = word + (slot + 1) * {REPORT}",
            "        found = tl.full((), 0, tl.int64)",
        ]
        for j, flag in enumerate(is_index):
            lines += [
                "        if found == 0:",
                f"            found = report(words, to, blocks, {checks}, {j}, {int(flag)})",
            ]
        lines.append("        tl.store(word, 1)")
    if rejects_nothing:
        lines += [
            "    if is_nothing & (tl.sum(bad) == 0):",
            "        start = reports.to(tl.pointer_type(tl.int64))",
            f"        here = start + (slot + 1) * {REPORT}",
            *(f"        tl.store(here + {k}, 0)" for k in range(1, 7)),
            "        tl.store(here, 1)",
            "        tl.store(start, 1)",
        ]
    return lines
