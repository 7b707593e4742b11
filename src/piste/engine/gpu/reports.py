"""Violations of value checks that kernels find: written to pinned memory, raised by a later call.

Each call with checks gets a slot of pinned memory. A kernel that finds a violation fills the slot and sets a word in
front of all slots, so one comparison on the host tells that there are none.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ...errors import PisteError
from ..violations import Violation
from .loss_lines import REPORT

__all__ = ["Reports", "raise_reported", "reports_of"]

SLOTS = 4096  # calls whose kernels may be queued at a time

Reject = Callable[[Violation], PisteError]


class _Call(NamedTuple):
    """A call with its number, and each check: the error, the shape of the first operand, and whether integers fail."""

    number: int
    checks: Sequence[tuple[Reject, tuple[int, ...], bool]]


class Reports:
    """The slots of a device.

    Args:
        device: allocates pinned memory, and waits for its kernels.
    """

    def __init__(self, device: Any) -> None:
        self._device = device
        self._table = device.pinned(REPORT * (SLOTS + 1))
        self.address = self._table.address
        ctypes.memset(self.address, 0, 8 * REPORT * (SLOTS + 1))
        self._word = ctypes.c_int64.from_address(self.address)
        self._calls: list[_Call | None] = [None] * SLOTS
        self._next = self.calls = 0
        self._in_graphs: set[int] = set()
        self._found: list[tuple[_Call, tuple[int, ...]]] = []

    def add(self, checks: Sequence[tuple[Reject, tuple[int, ...], bool]], *, is_capturing: bool) -> int:
        """Return the slot of a call with these checks. A CUDA graph keeps the slots of its calls."""
        while self._next in self._in_graphs:
            self._next = (self._next + 1) % SLOTS
        slot = self._next
        self._next = (slot + 1) % SLOTS
        self.calls += 1
        self._calls[slot] = _Call(self.calls, checks)
        if is_capturing:
            if len(self._in_graphs) > SLOTS // 2:
                raise RuntimeError(f"CUDA graphs hold more than {SLOTS // 2} calls of losses with value checks")
            self._in_graphs.add(slot)
        return slot

    def raise_found(self, *, wait: bool = False, is_last: bool = False) -> None:
        """Raise for the first violation that kernels have reported and that was not raised yet.

        Args:
            wait: whether to wait for all kernels that were launched.
            is_last: whether the caller is the last call, whose own violations are not late.
        """
        if not (wait or self._word.value or self._found) or self._device.is_capturing():
            return
        if wait:
            self._device.synchronize()
        if self._word.value:
            self._collect()
        if self._found:
            call, words = self._found.pop(0)
            error = self._error(call, words)
            if is_last and call.number == self.calls:
                raise error
            raise type(error)(
                f"{error} (Found on the GPU in call {call.number} of {self.calls} of losses with checks, and raised "
                'late, as the host does not wait for the GPU. check="sync" raises at the call itself.)'
            )

    def _collect(self) -> None:
        """Move all reports from the slots to the list."""
        self._word.value = 0  # before waiting: a kernel that another thread launches then sets it again
        self._device.synchronize()
        content = (ctypes.c_int64 * (REPORT * (SLOTS + 1))).from_address(self.address)
        for slot, call in enumerate(self._calls):
            at = REPORT * (slot + 1)
            if content[at] and call is not None:
                self._found.append((call, tuple(content[at : at + REPORT])))
                content[at] = 0
        self._found.sort(key=lambda entry: entry[0].number)

    def _error(self, call: _Call, words: tuple[int, ...]) -> PisteError:
        _, check, count, first, value, far_at, far, _ = words
        reject, shape, is_index = call.checks[check]
        values = [x if is_index else struct.unpack("=d", struct.pack("=q", x))[0] for x in (value, far)]
        return reject(Violation(count, first, values[0], far_at, values[1], shape))


_all: dict[Any, Reports] = {}
_of_parent: list[Reports] = []
"""Reports of the process that has forked this one, which owns their memory."""


def _leave_to_parent() -> None:
    """Ask for no reports in a forked process: CUDA, and perhaps the pinned memory, are those of its parent."""
    _of_parent.extend(_all.values())
    _all.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


def reports_of(device: Any) -> Reports:
    """Return the reports of a device."""
    key = device.index
    if key not in _all:
        _all[key] = Reports(device)
    return _all[key]


def raise_reported(*, wait: bool = False, is_last: bool = False) -> None:
    """Raise for the first violation on any GPU that was not raised yet; the arguments are those of `raise_found`."""
    if not _all:
        return  # every step and loss asks
    for reports in tuple(_all.values()):
        reports.raise_found(wait=wait, is_last=is_last)
