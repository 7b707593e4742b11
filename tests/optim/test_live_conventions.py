"""The conventions of Keras and optax, step by step against the versions that are installed."""

from __future__ import annotations

import pytest
import torch

from .test_conventions import path_of


@pytest.fixture
def recorder(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    for package in ("jax", "keras", "optax"):
        reason = f"{package} is not installed: conventions are compared with recorded steps alone"
        pytest.importorskip(package, reason=reason)
    from . import record_trajectories

    return record_trajectories


@pytest.mark.parametrize("framework", ["keras", "optax"])
def test_steps_are_those_of_the_installed_framework(framework, recorder):
    for run in {"keras": recorder.keras_runs, "optax": recorder.optax_runs}[framework]():
        expected = torch.tensor(run["path"], dtype=torch.float64)
        found = path_of(framework, run, fused=False)
        torch.testing.assert_close(
            found, expected, rtol=1e-12, atol=1e-12, msg=lambda text, run=run: f"{run['name']} {run['options']}: {text}"
        )
