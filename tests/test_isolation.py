"""A test that leaves the state of the process changed fails, with the names of what changed."""

from __future__ import annotations

import os
import sys

import pytest

from tests.isolation import process_state

CHANGES = {
    "default dtype": "torch.set_default_dtype(torch.float64)",
    "default device": "torch.set_default_device('meta')",
    "number of threads": "torch.set_num_threads(torch.get_num_threads() + 1)",
    "grad mode": "torch.set_grad_enabled(False)",
    "anomaly detection": "torch.autograd.set_detect_anomaly(True)",
    "autocast on the CPU": "torch.set_autocast_enabled('cpu', True)",
    "deterministic algorithms": "torch.use_deterministic_algorithms(True)",
    "deterministic algorithms warn only": "torch.use_deterministic_algorithms(True, warn_only=True)",
    "matmul precision": "torch.set_float32_matmul_precision('medium')",
    "warnings repeat": "torch.set_warn_always(True)",
    "denormal numbers": "torch.set_flush_denormal(True)",
    "torch.optim.Adam": "piste.patch()",
    "variables of Piste": "os.environ['PISTE_BACKEND'] = 'eager'",
}


def test_each_part_of_the_state_is_compared() -> None:
    assert set(CHANGES) == set(process_state())


def test_a_test_that_changes_the_state_fails(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    # In one process: each test begins with the state that the earlier ones left, so it fails for its own change alone.
    tests = [f"def test_{k}():\n    {change}\n" for k, change in enumerate(CHANGES.values())]
    pytester.makepyfile("\n".join(["import os, piste, torch", *tests, "def test_none():\n    pass"]))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    result = pytester.runpytest_subprocess("-p", "tests.isolation")
    result.assert_outcomes(passed=len(CHANGES) + 1, errors=len(CHANGES))
    said = "The test left the state of the process changed. "
    result.stdout.fnmatch_lines([f"{said}{name}: * before, * after" for name in CHANGES])
    result.stdout.fnmatch_lines([f"{said}grad mode: True before, False after"])
