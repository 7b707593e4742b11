"""Step counts in host memory, advanced for all tensors at once."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ..native.compiler import has_compiler, load

_NUMBER = {"float32": ctypes.c_float, "float64": ctypes.c_double}


class HostCounters:
    """The counters of some tensors, by columns: the step count `t`, then the counters that the rule adds.

    Args:
        columns: for each counter the 0-d tensors on the CPU, one for each parameter.
        kind: their dtype.
        own: the columns of numbers that each parameter has for itself, and that never change.
    """

    def __init__(self, columns: Sequence[Sequence[Tensor]], kind: str, own: Sequence[int] = ()) -> None:
        self._columns, self._number = columns, _NUMBER[kind]
        self._common = [k for k in range(len(columns)) if k not in own]
        self._addresses = [array("q", [x.data_ptr() for x in column]) for column in columns]
        self._table = array("q", [len(columns[0]), *(column.buffer_info()[0] for column in self._addresses)])
        self._values = array("d", bytes(8 * len(columns)))
        self._table.append(self._values.buffer_info()[0])
        self._native = _native(len(columns), kind, self._common)

    def advance(self) -> bool:
        """Add 1 to every step count; return whether all tensors have the same counters but for their own ones."""
        if self._native is not None:
            return bool(self._native["advance"](self._table.buffer_info()[0]))
        for t in self._columns[0]:
            t += 1
        return all(len({x.item() for x in self._columns[k]}) == 1 for k in self._common)

    def read(self, tensor: int) -> tuple[float, ...]:
        """Return the counters of one tensor."""
        return tuple(self._number.from_address(column[tensor]).value for column in self._addresses)

    def store(self, columns: Sequence[int], values: Sequence[float], tensor: int | None = None) -> None:
        """Store the counters of some columns, for one tensor, or for all where all are equal."""
        if tensor is None and self._native is not None:
            self._values[:] = array("d", self.read(0))
            for k, value in zip(columns, values, strict=True):
                self._values[k] = value
            self._native["store"](self._table.buffer_info()[0])
            return
        for k, value in zip(columns, values, strict=True):
            column = self._addresses[k]
            for address in column if tensor is None else [column[tensor]]:
                self._number.from_address(address).value = value


def _native(columns: int, kind: str, common: Sequence[int]) -> dict[str, Callable[[int], int]] | None:
    """Return the machine code of `advance` and `store`, or None where Numba can't make it."""
    if not has_compiler():
        return None
    lines = [
        "def advance(table) -> int:",
        *(f"    col_{k} = pointer(table[{1 + k}], int64)" for k in range(columns)),
        *(f"    first_{k} = pointer(col_{k}[0], {kind})[0]" for k in range(columns)),
        "    first_0 += 1",
        "    same = 1",
        "    for i in range(table[0]):",
        f"        t = pointer(col_0[i], {kind})",
        "        t[0] += 1",
        "        if t[0] != first_0:",
        "            same = 0",
    ]
    for k in common[1:]:
        lines += [f"        if pointer(col_{k}[i], {kind})[0] != first_{k}:", "            same = 0"]
    lines += [
        "    return same",
        "",
        "def store(table) -> int:",
        f"    values = pointer(table[{1 + columns}], float64)",
        *(f"    col_{k} = pointer(table[{1 + k}], int64)" for k in range(columns)),
        "    for i in range(table[0]):",
        *(f"        pointer(col_{k}[i], {kind})[0] = {kind}(values[{k}])" for k in common),
        "    return 0",
        "",
    ]
    call: dict[str, Any] = load("\n".join(lines), ("advance", "store")).call
    return call
