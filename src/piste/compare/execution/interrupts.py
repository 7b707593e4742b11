"""Ctrl-C while a comparison runs: it ends training at once, and waits wherever something is being kept or told."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Interrupts:
    """Inside `with`, Ctrl-C raises KeyboardInterrupt once; inside `held()`, after `hold()`, and once it was raised, it
    waits: for the end of what is held, or to be forgotten, as it was answered. Another one then waits no longer, so
    that nothing can hang for ever.

    A handler of SIGINT that isn't Python's own stays in force, and so does everything outside the main thread.
    """

    def __init__(self) -> None:
        self._depth, self._waiting, self._answered = 0, False, False

    def __enter__(self) -> Interrupts:
        main = threading.current_thread() is threading.main_thread()
        self._mine = main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._mine:
            signal.signal(signal.SIGINT, self._came)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._mine:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._waiting and not self._answered and kind is None:
            self._answer()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """What stands inside is done whole."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
        if self._waiting and not (self._answered or self._depth):
            self._answer()

    def hold(self) -> None:
        """What follows is done whole."""
        self._depth += 1

    def _came(self, number: int, frame: FrameType | None) -> None:
        if (self._depth or self._answered) and not self._waiting:
            self._waiting = True
        else:
            self._answer()

    def _answer(self) -> None:
        self._waiting, self._answered = False, True
        raise KeyboardInterrupt
