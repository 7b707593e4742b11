"""Reports of value checks in the memory that kernels write to."""

from __future__ import annotations

import ctypes
import os
from typing import Any

import pytest
import torch

from piste import losses
from piste.engine.gpu import reports as reports_module
from piste.engine.gpu.device import PinnedTable
from piste.engine.gpu.loss_lines import REPORT
from piste.engine.gpu.reports import Reports
from piste.errors import InvalidValue


class Device:
    """A device in plain memory, on which `late` runs while the host waits."""

    late: Any = None

    def pinned(self, words: int) -> PinnedTable:
        return PinnedTable(words, pin=False)

    def is_capturing(self) -> bool:
        return False

    def synchronize(self) -> None:
        late, self.late = self.late, None
        if late is not None:
            late()


def words_of(reports: Reports, slot: int) -> Any:
    """Return the words of all slots up to one, after those in front of the slots."""
    return (ctypes.c_int64 * (REPORT * (slot + 2))).from_address(reports.address)


def fail(reports: Reports, slot: int, value: int) -> None:
    """Report a value as a kernel does."""
    words = words_of(reports, slot)
    words[REPORT * (slot + 1) : REPORT * (slot + 2)] = [1, 0, 1, 0, value, 0, value, 0]
    words[0] = 1


def test_a_kernel_that_reports_while_the_host_collects_is_not_missed():
    """Another thread launches a kernel while the host waits: its word arrives then, and its report after the wait."""
    device = Device()
    reports = Reports(device)
    check = [(lambda violation: InvalidValue(f"value {violation.value}"), (1,), True)]
    first, second = (reports.add(check, is_capturing=False) for _ in range(2))
    has_report = REPORT * (second + 1)

    def half_arrived() -> None:
        fail(reports, second, 8)
        words_of(reports, second)[has_report] = 0

    fail(reports, first, 7)
    device.late = half_arrived
    with pytest.raises(InvalidValue, match="value 7"):
        reports.raise_found()
    words_of(reports, second)[has_report] = 1
    with pytest.raises(InvalidValue, match="value 8"):
        reports.raise_found()
    reports.raise_found()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_asks_no_gpu_of_its_parent(monkeypatch):
    """A worker of a DataLoader computes losses on the CPU, where CUDA refuses all calls."""

    class Refused(Device):
        def is_capturing(self) -> bool:
            raise RuntimeError("Cannot re-initialize CUDA in forked subprocess")

    reports = Reports(Refused())
    monkeypatch.setitem(reports_module._all, 0, reports)
    fail(reports, 0, 7)
    child = os.fork()
    if child == 0:
        try:
            losses.functional.mse_loss(torch.ones(2), torch.zeros(2), check="sync")
            reports_module.raise_reported(wait=True)
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with pytest.raises(RuntimeError, match="forked"):
        reports_module.raise_reported(wait=True)
