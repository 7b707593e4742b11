"""A loss of few elements in one call of machine code, which asks libtorch about the operands and then runs the kernel.

Beside the work on a hundred elements, a dozen questions in Python are what a loss costs.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from ...formula.printing import is_number
from . import torch_internals as libtorch
from .compiler import CompiledModule, load
from .fastcall import BYTES_HEADER, make_fastcall
from .loss_form import (
    BLOCK,
    CLASSES,
    COLUMNS,
    DIVISOR,
    FAULTS,
    FEW,
    GRAIN,
    IGNORED,
    NUMBERS,
    OPTIONS,
    OUT,
    PARTIALS,
    PARTS,
    PER_BLOCK,
    ROWS,
    RUN,
    SCALE,
    SCRATCH,
    Form,
)
from .openmp import parallel_address_cell, thread_num_address
from .work_sharing import APART, BLOCKS, COUNTERS, MEMBER, SHARES, reset_lines

__all__ = ["NEVER", "Rest", "can_serve", "serving"]

NEVER = -(1 << 62)
"""An index that nothing has: none is ignored."""

_FIXED = (
    *("is_rows", "count", "wanted", "dtypes", "shapes", "marks", "options", "numbers", "scratch", "most"),
    *("prepare", "run", "finish", "sequence", "tensor", "parameter", "team", "member"),
    *libtorch.NAMES,
)
_WHOLE, _ROW_EACH, _CLASS_EACH = range(3)  # the shape of an operand: the first one's, or without the classes, or they
_SHAPES = {"number": _ROW_EACH, "index": _ROW_EACH, "shared": _CLASS_EACH}
_REST, _OUT, _OPERANDS, _SLOPES = range(4)  # of the objects given
_TYPE, _MANY = object.__basicsize__ - 8, object.__basicsize__  # how far into a tuple its type and its length are
_ITEMS = tuple.__basicsize__  # and where its items begin
MOST_COLUMNS, MOST_OPTIONS, MOST_CLASSES = 14, 16, 4096
_TABLE = 1  # in words of the room, as the next two; the first is for answers
_NUMBERS = _TABLE + COLUMNS + MOST_COLUMNS
_PARTIALS = _NUMBERS + OPTIONS + MOST_OPTIONS
_COUNTERS = _PARTIALS + 2 * (2 * FEW // BLOCK + 1)
MOST_THREADS = FEW // BLOCK
_ROOM = _COUNTERS + APART * MOST_THREADS


def _source() -> str:
    """Every question, then the kernel."""
    return "\n".join(
        [
            "def once(fixed, given) -> int:",
            *(f"    {name} = fixed[{k}]" for k, name in enumerate(_FIXED)),
            f"    out = room({_ROOM})",
            "    answer = pointer(out, int64)",
            f"    table = pointer(out + {8 * _TABLE}, int64)",
            f"    real = pointer(out + {8 * _NUMBERS}, float64)",
            "    kinds, forms, asked = pointer(dtypes, int64), pointer(shapes, int64), pointer(marks, int64)",
            "    is_on = call0(is_grad_enabled) & 255",
            "    n, classes, elements, dims = 1, 1, 1, 0",
            f"    rest = given[{_REST}] + {BYTES_HEADER}",
            f"    if pointer(given[{_OPERANDS}] + {_TYPE}, int64)[0] != sequence:",
            "        return 0",
            f"    if pointer(given[{_OPERANDS}] + {_MANY}, int64)[0] != count:",
            "        return 0",
            f"    operands = pointer(given[{_OPERANDS}] + {_ITEMS}, int64)",
            f"    slopes = pointer(given[{_SLOPES}] + {_ITEMS}, int64)",
            "    first = pointer(out, int64)",
            "    for i in range(count):",
            f"        kind = pointer(operands[i] + {_TYPE}, int64)[0]",
            "        if kind != tensor and kind != parameter:",
            "            return 0",
            f"        x = operands[i] + {libtorch.offset()}",
            "        if (call1(requires_grad, pointer(x, int64)[0]) & is_on & 255) != asked[i]:",
            "            return 0",
            *(
                line
                for about, value in (("device", "0"), ("layout", "0"), ("dtype", "kinds[i]"))
                for line in (
                    *libtorch.question(about, "x", 8),
                    f"        if answer[0] != {value}:",
                    "            return 0",
                )
            ),
            "        if ((call1(is_neg, x) | call1(is_conj, x)) & 255) != 0:",
            "            return 0",
            *libtorch.question("dim", "x", 8),
            "        d = answer[0]",
            *libtorch.question("sizes", "x", 8),
            "        shape = pointer(answer[0], int64)",
            *libtorch.question("strides", "x", 8),
            "        walk = pointer(answer[0], int64)",
            "        if i == 0:",
            "            first = shape",
            "            dims = d",
            "        skipped = 0",
            f"        expected = dims - 1 if forms[i] == {_ROW_EACH} else dims",
            f"        if forms[i] == {_CLASS_EACH}:",
            "            expected = 1",
            "            skipped = dims - 1",
            "        if d != expected:",
            "            return 0",
            "        n = 1",
            "        for j in range(d):",
            "            k = d - 1 - j",
            "            if shape[k] != first[k + skipped] or (shape[k] != 1 and walk[k] != n):",
            "                return 0",
            "            n *= shape[k]",
            *libtorch.question("address", "x", 8),
            f"        table[{COLUMNS} + i] = answer[0]",
            "        if answer[0] == 0:",
            "            return 0",
            "        if i == 0:",
            "            elements = n",
            "            if is_rows != 0:",
            "                classes = first[dims - 1]",
            f"    if elements == 0 or elements > {FEW}:",
            "        return 0",
            f"    threads = call0(get_num_threads) & {0xFFFFFFFF} if elements > {GRAIN} else 1",
            f"    threads = threads if threads < {MOST_THREADS} else {MOST_THREADS}",
            "    kept = pointer(rest, int64)[2]",
            "    if classes * threads > most or (kept >= 0 and (dims != kept or classes < 2)):",
            "        return 0",
            f"    value = given[{_OUT}] + {libtorch.offset()}",
            *libtorch.question("address", "value", 4),
            f"    table[{OUT}] = answer[0]",
            "    for i in range(wanted):",
            f"        slope = slopes[i] + {libtorch.offset()}",
            *libtorch.question("address", "slope", 8),
            f"        table[{COLUMNS} + count + i] = answer[0]",
            "    rows = elements // classes",
            f"    each = {BLOCK} // classes",
            "    each = each if each > 1 else 1",
            "    blocks = (rows + each - 1) // each",
            f"    runs = blocks // ({PARTS} * threads)",
            f"    table[{SHARES}], table[{BLOCKS}], table[{ROWS}], table[{CLASSES}] = threads, blocks, rows, classes",
            f"    table[{COUNTERS}], table[{MEMBER}] = out + {8 * _COUNTERS}, member",
            *reset_lines(),
            f"    table[{RUN}], table[{PER_BLOCK}] = runs if runs > 1 else 1, each",
            f"    table[{IGNORED}] = pointer(rest, int64)[1]",
            f"    table[{SCRATCH}] = scratch",
            f"    table[{PARTIALS}], table[{NUMBERS}] = out + {8 * _PARTIALS}, out + {8 * _NUMBERS}",
            "    divisor = pointer(rest, float64)[0]",
            f"    real[{DIVISOR}] = float64(rows) if divisor == 0.0 else divisor",
            f"    real[{SCALE}] = 1.0 / real[{DIVISOR}]",
            "    values = pointer(numbers, float64)",
            "    for k in range(options):",
            f"        real[{OPTIONS} + k] = values[k]",
            "    if prepare != 0:",
            f"        call1(prepare, out + {8 * _TABLE})",
            f"        if real[{DIVISOR}] == 0.0:",
            "            return 0  # what the mean of nothing is, is decided elsewhere",
            "    team_ = pointer(team, int64)[0]",
            "    if threads > 1 and team_ != 0:",
            f"        call4(team_, run, out + {8 * _TABLE}, threads, 0)",
            "    else:",
            f"        call1(run, out + {8 * _TABLE})",
            f"    call1(finish, out + {8 * _TABLE})",
            f"    return 1 if real[{FAULTS}] == 0.0 else 0",
            "",
        ]
    )


def serving(form: Form, kernels: Sequence[CompiledModule], scratch_rows: int) -> Callable[..., bool]:
    """What computes a loss of few elements, by the kernels of its form.

    It takes what `Rest` has packed, the tensor for the loss, the tuple of the operands, and that of the tensors for the
    gradients. It says no where the operands, or a value among them, want another way.
    """
    functions = libtorch.functions()
    assert functions is not None
    options = [float(v) for _, v in form.options if is_number(v)]
    arrays: dict[str, array[Any]] = {
        "numbers": array("d", options),
        "dtypes": array("q", [libtorch.number(getattr(torch, c.storage)) for c in form.given]),
        "shapes": array("q", [_SHAPES.get(c.kind, _WHOLE) for c in form.given]),
        "marks": array("q", form.marks),
        "scratch": array("d", bytes(8 * scratch_rows * MOST_CLASSES)),  # one call at a time: it keeps Python's lock
    }
    known = {
        "is_rows": form.derivatives is None,
        "count": len(form.given),
        "wanted": len(form.by),
        "most": MOST_CLASSES if scratch_rows else sys.maxsize,
        "options": len(options),
        "prepare": 0,
        "sequence": id(tuple),
        "team": parallel_address_cell(),
        "member": thread_num_address(),
        "tensor": id(torch.Tensor),
        "parameter": id(torch.nn.Parameter),
        **{name: a.buffer_info()[0] for name, a in arrays.items()},
        **{name: at for kernel in kernels for name, at in kernel.addresses.items()},
        **functions,
    }
    fixed = array("q", [known[name] for name in _FIXED])
    return make_fastcall(load(_source(), ("once",)), "once", fixed, arrays, kernels)


class Rest(NamedTuple):
    """What a call brings besides its operands."""

    packed: bytes  # divisor, ignored and dims, as machine code reads them
    divisor: float  # of a mean; 0: the rows or elements
    ignored: int  # an index
    is_nothing_nan: bool  # the mean of no rows
    dims: int  # that the first operand must have, beside more than one class; negative: any

    @classmethod
    def of(cls, divisor: float, ignored: int = NEVER, is_nothing_nan: bool = True, dims: int = -1) -> Rest:
        """The rest, packed too."""
        return cls(struct.pack("dqq", divisor, ignored, dims), divisor, ignored, is_nothing_nan, dims)


def can_serve(form: Form) -> bool:
    """Whether libtorch can be asked, about so many operands."""
    columns, options = len(form.given) + len(form.by), sum(is_number(v) for _, v in form.options)
    return libtorch.functions() is not None and columns <= MOST_COLUMNS and options <= MOST_OPTIONS
