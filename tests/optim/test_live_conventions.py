"""The conventions of other libraries, step by step against the versions that are installed."""

from __future__ import annotations

import pytest
import torch

from piste.optim.convention import TITLES

from .test_conventions import path_of, tolerance_of


@pytest.fixture
def recorder(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    for package in ("jax", "keras", "optax"):
        reason = f"{package} is not installed: conventions are compared with recorded steps alone"
        pytest.importorskip(package, reason=reason)
    from . import record_trajectories

    return record_trajectories


@pytest.mark.parametrize("framework", TITLES)
def test_steps_are_those_of_the_installed_framework(framework, recorder):
    pytest.importorskip(framework, reason=f"{framework} is not installed: its recorded steps alone are compared")
    for run in recorder.RUNS[framework]():
        tolerance = tolerance_of(framework, run)
        expected = torch.tensor(run["path"], dtype=torch.float64)
        found = path_of(framework, run, fused=False)
        torch.testing.assert_close(
            found,
            expected,
            rtol=tolerance,
            atol=tolerance,
            msg=lambda text, run=run: f"{run['name']} {run['options']}: {text}",
        )
