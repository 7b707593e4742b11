"""Ctrl-C and SIGTERM during a comparison: training ends at once, while storing and reporting are completed first."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

_DEFAULTS: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


class Interrupts:
    """Handles SIGINT and SIGTERM inside `with`, both alike.

    The first Ctrl-C raises KeyboardInterrupt, deferred until the end of any `deferred()` block, or of the `with` block
    after `defer()`. A second Ctrl-C during a deferral raises at once, so that nothing hangs. A Ctrl-C after the first
    one was raised is ignored unless it is repeated.

    A custom handler of either signal stays installed, and so does the handling outside the main thread.
    """

    def __init__(self) -> None:
        self._depth, self._waiting, self._raised = 0, False, False

    def __enter__(self) -> Interrupts:
        main = threading.current_thread() is threading.main_thread()
        self._replaced = {number for number in _DEFAULTS if main and signal.getsignal(number) is _DEFAULTS[number]}
        for number in self._replaced:
            signal.signal(number, self._on_signal)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for number in self._replaced:
            signal.signal(number, _DEFAULTS[number])
        if self._waiting and not self._raised and kind is None:
            self._raise()

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Complete the block before an interrupt is raised."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
        if self._waiting and not (self._raised or self._depth):
            self._raise()

    def defer(self) -> None:
        """Complete the rest of the `with` block before an interrupt is raised."""
        self._depth += 1

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if (self._depth or self._raised) and not self._waiting:
            self._waiting = True
        else:
            self._raise()

    def _raise(self) -> None:
        self._waiting, self._raised = False, True
        raise KeyboardInterrupt
