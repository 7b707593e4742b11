"""pytest's plugin for one run of PyTorch's tests: outcomes as JSON lines, a time limit, and Piste in PyTorch's place.

The environment holds its settings: `RECORDER_FILE` (the file to write), `RECORDER_SECONDS` (the limit of a test) and
`RECORDER_PATCH` (1: the tests run under `piste.patch()`). pytest loads the plugin before it imports a test, which is
before the modules of `torch.testing` copy the names of optimizers and losses.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

LIMIT = float(os.environ["RECORDER_SECONDS"])

if os.environ["RECORDER_PATCH"] == "1":
    import piste

    piste.patch()


def record(test: str, outcome: str, reason: str = "") -> None:
    """Append a line to the file."""
    with open(os.environ["RECORDER_FILE"], "a", encoding="utf-8") as file:
        file.write(json.dumps({"test": test, "outcome": outcome, "reason": reason}) + "\n")


def end_test(signum: int, frame: Any) -> None:
    """Raise in the test that runs over its limit."""
    raise TimeoutError(f"the test ran longer than {LIMIT:g} s")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Limit the time of a test, and end the process where a test does not return to Python."""
    record(item.nodeid, "crashed")  # overwritten by its outcome, if it has one
    signal.signal(signal.SIGALRM, end_test)
    faulthandler.dump_traceback_later(2 * LIMIT, exit=True)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Raise TimeoutError in the test itself at the limit."""
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Record the outcome of a test, and the last line of its error."""
    if report.when == "call" or report.failed or (report.when == "setup" and report.skipped):
        crash = getattr(report.longrepr, "reprcrash", None)
        record(report.nodeid, report.outcome, crash.message if report.failed and crash else "")
