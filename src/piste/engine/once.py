"""A loss of few elements in one call of machine code, which asks libtorch about the operands and then runs the kernel.

Beside the work on a hundred elements, a dozen questions in Python are what a loss costs.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from struct import Struct

import torch
from torch import Tensor

from ..mathematics import is_number
from . import libtorch, native
from .loss_form import (
    BLOCKS,
    CLAIMED,
    CLASSES,
    COLUMNS,
    DIVISOR,
    FAULTS,
    GRAIN,
    IGNORED,
    NUMBERS,
    OPTIONS,
    OUT,
    PARTIALS,
    PER_BLOCK,
    ROWS,
    RUN,
    SCALE,
    Form,
)

__all__ = ["FAULTY", "SERVED", "Once", "can_serve"]

UNSERVED, SERVED, FAULTY = range(3)
"""What became of a call: the operands want another way, or all is done, or a value has to be refused."""
_FIXED = (
    *("is_rows", "count", "wanted", "dtypes", "shapes", "options", "numbers", "prepare", "run", "finish"),
    *libtorch.NAMES,
)
_WHOLE, _ROW_EACH, _CLASS_EACH = range(3)  # the shape of an operand: the first one's, or without the classes, or they
_SHAPES = {"number": _ROW_EACH, "index": _ROW_EACH, "shared": _CLASS_EACH}
_DIVISOR, _IGNORED, _OUT, _OPERANDS = range(1, 5)  # of a request; the first word says what is fixed
MOST_COLUMNS, MOST_OPTIONS = 14, 16
_TABLE = 1  # in words of the room, as the next two; the first is for answers
_NUMBERS = _TABLE + COLUMNS + MOST_COLUMNS
_PARTIALS = _NUMBERS + OPTIONS + MOST_OPTIONS


def _source() -> str:
    """`once(request)`: every question, then the kernel on one block."""
    return "\n".join(
        [
            "def once(request) -> int:",
            "    fixed = pointer(request[0], int64)",
            *(f"    {name} = fixed[{k}]" for k, name in enumerate(_FIXED)),
            "    out = room()",
            "    answer = pointer(out, int64)",
            f"    table = pointer(out + {8 * _TABLE}, int64)",
            f"    real = pointer(out + {8 * _NUMBERS}, float64)",
            "    kinds, forms = pointer(dtypes, int64), pointer(shapes, int64)",
            "    n, classes, elements, dims = 1, 1, 1, 0",
            "    first = pointer(out, int64)",
            "    for i in range(count):",
            f"        x = place(request) + 8 * (i + {_OPERANDS})",
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
            f"    if elements == 0 or elements > {GRAIN}:",
            "        return 0",
            f"    value = place(request) + {8 * _OUT}",
            *libtorch.question("address", "value", 4),
            f"    table[{OUT}] = answer[0]",
            "    for i in range(wanted):",
            f"        slope = place(request) + 8 * (count + i + {_OPERANDS})",
            *libtorch.question("address", "slope", 8),
            f"        table[{COLUMNS} + count + i] = answer[0]",
            "    rows = elements // classes",
            f"    table[{CLAIMED}], table[{BLOCKS}], table[{ROWS}], table[{CLASSES}] = 0, 1, rows, classes",
            f"    table[{RUN}], table[{PER_BLOCK}], table[{IGNORED}] = 1, rows, request[{_IGNORED}]",
            f"    table[{PARTIALS}], table[{NUMBERS}] = out + {8 * _PARTIALS}, out + {8 * _NUMBERS}",
            f"    divisor = pointer(place(request), float64)[{_DIVISOR}]",
            f"    real[{DIVISOR}] = float64(rows) if divisor == 0.0 else divisor",
            f"    real[{SCALE}] = 1.0 / real[{DIVISOR}]",
            "    given = pointer(numbers, float64)",
            "    for k in range(options):",
            f"        real[{OPTIONS} + k] = given[k]",
            "    if prepare != 0:",
            f"        call1(prepare, out + {8 * _TABLE})",
            f"        if real[{DIVISOR}] == 0.0:",
            "            return 0  # what the mean of nothing is, is decided elsewhere",
            f"    call1(run, out + {8 * _TABLE})",
            f"    call1(finish, out + {8 * _TABLE})",
            f"    return {SERVED} if real[{FAULTS}] == 0.0 else {FAULTY}",
            "",
        ]
    )


class Once:
    """The calls of one kernel on few elements."""

    def __init__(self, form: Form, kernels: Sequence[native.Kernel]) -> None:
        functions = libtorch.functions()
        assert functions is not None
        options = [float(v) for _, v in form.options if is_number(v)]
        dtypes = [libtorch.number(getattr(torch, c.storage)) for c in form.given]
        shapes = [_SHAPES.get(c.kind, _WHOLE) for c in form.given]
        self._kept = array("d", options), array("q", dtypes), array("q", shapes), kernels
        known = {
            "is_rows": form.derivatives is None,
            "count": len(form.given),
            "wanted": len(form.by),
            "numbers": self._kept[0].buffer_info()[0],
            "dtypes": self._kept[1].buffer_info()[0],
            "shapes": self._kept[2].buffer_info()[0],
            "options": len(options),
            "prepare": 0,
            **{name: at for kernel in kernels for name, at in kernel.addresses.items()},
            **functions,
        }
        self._fixed = array("q", [known[name] for name in _FIXED])
        self._at = self._fixed.buffer_info()[0]
        self._call = native.load(_source(), ("once",)).locked["once"]
        self._request = Struct(f"qd{2 + len(form.given) + len(form.by)}q").pack

    def __call__(
        self, divisor: float, ignored: int, out: Tensor, operands: Sequence[Tensor], slopes: Sequence[Tensor]
    ) -> int:
        """Leave the loss in `out` and the gradients in `slopes`, and say what became of it; 0 divides by the rows."""
        handles = [x._cdata for x in operands]
        handles += [x._cdata for x in slopes]
        return self._call(self._request(self._at, divisor, ignored, out._cdata, *handles))


def can_serve(form: Form) -> bool:
    """Whether libtorch can be asked, about so many operands."""
    columns, options = len(form.given) + len(form.by), sum(is_number(v) for _, v in form.options)
    return libtorch.functions() is not None and columns <= MOST_COLUMNS and options <= MOST_OPTIONS
