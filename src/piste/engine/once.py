"""A loss of few elements in one call of machine code, which asks libtorch about the operands and then runs the kernel.

Beside the work on a hundred elements, a dozen questions in Python are what a loss costs.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from struct import Struct

import torch
from torch import Tensor

from . import libtorch, native

__all__ = ["FAULTY", "SERVED", "Once", "can_serve"]

CLAIMED, BLOCKS, SIZE, PARTIALS, OUT, NUMBERS, COLUMNS = range(7)
"""The table of a kernel; the gradient is the first column, and of the numbers the first is the scale."""
UNSERVED, SERVED, FAULTY = range(3)
"""What became of a call: the operands want another way, or all is done, or a value has to be refused."""
_FIXED = ("count", "kind", "limit", "options", "numbers", "forward", "gradient", "finish", *libtorch.NAMES)
_MEAN, _VALUE, _SLOPE, _OPERANDS = range(1, 5)  # of a request; the first word says what is fixed
_TABLE, _NUMBERS, _PARTIALS = 1, 24, 48  # in words of the room; the first is for answers
MOST_OPERANDS, MOST_OPTIONS = 8, 16


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
            "    n = 1",
            "    first = pointer(out, int64)",
            "    dims = 0",
            "    for i in range(count):",
            f"        x = place(request) + 8 * (i + {_OPERANDS})",
            *(
                line
                for about, value in (("device", "0"), ("layout", "0"), ("dtype", "kind"))
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
            "        if d != dims:",
            "            return 0",
            "        n = 1",
            "        for j in range(d):",
            "            k = d - 1 - j",
            "            if shape[k] != first[k] or (shape[k] != 1 and walk[k] != n):",
            "                return 0",
            "            n *= shape[k]",
            *libtorch.question("address", "x", 8),
            f"        table[{COLUMNS + 1} + i] = answer[0]",
            "        if answer[0] == 0:",
            "            return 0",
            "    if n == 0 or n > limit:",
            "        return 0",
            f"    value = place(request) + {8 * _VALUE}",
            *libtorch.question("address", "value", 4),
            f"    table[{OUT}] = answer[0]",
            f"    table[{COLUMNS}] = 0",
            "    entry = forward",
            f"    if request[{_SLOPE}] != 0:",
            "        entry = gradient",
            f"        slope = place(request) + {8 * _SLOPE}",
            *libtorch.question("address", "slope", 8),
            f"        table[{COLUMNS}] = answer[0]",
            f"    table[{CLAIMED}], table[{BLOCKS}], table[{SIZE}] = 0, 1, n",
            f"    table[{PARTIALS}], table[{NUMBERS}] = out + {8 * _PARTIALS}, out + {8 * _NUMBERS}",
            f"    real[0] = 1.0 / n if request[{_MEAN}] != 0 else 1.0",
            "    given = pointer(numbers, float64)",
            "    for k in range(options):",
            "        real[1 + k] = given[k]",
            f"    call1(entry, out + {8 * _TABLE})",
            f"    call1(finish, out + {8 * _TABLE})",
            f"    return {SERVED} if real[0] == 0.0 else {FAULTY}",
            "",
        ]
    )


class Once:
    """The calls of one kernel with its options, whose results are a sum or a mean."""

    def __init__(self, kernel: native.Kernel, dtype: torch.dtype, columns: int, limit: int, options: Sequence[float]):
        functions = libtorch.functions()
        assert functions is not None
        self._numbers, self._kernel = array("d", options), kernel
        known = {
            "count": columns,
            "kind": libtorch.number(dtype),
            "limit": limit,
            "options": len(options),
            "numbers": self._numbers.buffer_info()[0],
            **kernel.addresses,
            **functions,
        }
        self._fixed = array("q", [known[name] for name in _FIXED])
        self._at = self._fixed.buffer_info()[0]
        self._call = native.load(_source(), ("once",)).locked["once"]
        self._request = Struct(f"{_OPERANDS + columns}q").pack

    def __call__(self, is_mean: bool, value: Tensor, slope: Tensor | None, operands: Sequence[Tensor]) -> int:
        """Leave the loss in `value` and the gradient by the first operand in `slope`; say what became of it."""
        handles = [x._cdata for x in operands]
        slope_at = 0 if slope is None else slope._cdata
        return self._call(self._request(self._at, is_mean, value._cdata, slope_at, *handles))


def can_serve(columns: int, options: Sequence[float]) -> bool:
    """Whether libtorch can be asked, about so many operands."""
    return libtorch.functions() is not None and columns <= MOST_OPERANDS and len(options) <= MOST_OPTIONS
